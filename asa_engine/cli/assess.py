"""`asa-engine assess`: score recordings, one line each as soon as it is scored."""

from __future__ import annotations

import argparse
import json
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asa_engine.cli.loading import load_engine
from asa_engine.cli.options import (
    FORMAT_NAMES,
    add_command,
    add_engine_options,
    add_json_option,
    add_ray_options,
    positive_int,
)
from asa_engine.cli.streams import standard_input
from asa_engine.errors import AsaError, AudioError, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from asa_engine.assessment import Assessment
    from asa_engine.audio import AudioSource
    from asa_engine.batch.recordings import Recording
    from asa_engine.batch.rows import Row
    from asa_engine.engine import Engine
    from asa_engine.evaluation.sessions import Session
    from asa_engine.session_stream import SessionStream

STANDARD_INPUT = Path("-")
DETAILS = """\
Scores every recording and prints each one as soon as it is done: WAV, FLAC, Ogg and MP3 of any
sample rate; with the extra [media] also WebM, MP4, AAC, AMR and more. A - is standard input. With
--stream the audio is fed in chunks, as a microphone would, and provisional scores are shown while
it runs.

Inputs are recordings, folders of them, patterns in quotes, and manifests: CSV (.csv, .tsv) or JSON
Lines (.jsonl; also on standard input), a recording a line: audio, a path relative to the manifest,
and if you like id, text, prompt, learner, session, date. A recording that fails does not stop the
rest; the exit code is the highest that one of them asks for.

examples:
  asa-engine assess answer.flac
  asa-engine assess answers/ --workers 2 -o results.jsonl --resume
  asa-engine assess class.csv -o scores.csv
  asa-engine assess term/ --ray -o results.jsonl --resume
  arecord -d 10 -f S16_LE -r 16000 | asa-engine assess -
  asa-engine assess answer.flac --stream --chunk-ms 100 --live
  asa-engine assess answer.flac --text "We call it bear." --stream --live
  asa-engine assess answers/*.flac --text "We call it bear." --format textgrid -o grids
  asa-engine assess --session sessions.jsonl
  asa-engine assess --bundle build/bundles/s4-session --session session-folder --stream
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "assess", run, "Score recordings of learners' speech.", DETAILS)
    parser.add_argument(
        "audio",
        nargs="*",
        type=Path,
        metavar="INPUT",
        help="recordings, folders, patterns, manifests; - for standard input",
    )
    parser.add_argument(
        "--session",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="score test sessions: JSON, or JSON Lines with a session a line, of parts and their "
        "responses; or a folder that holds a folder of recordings for each part",
    )
    parser.add_argument("--text", metavar="T", help="what was read, for graders that use it")
    parser.add_argument("--prompt", metavar="P", help="the task, for graders that use it")
    stream = parser.add_argument_group("streaming")
    stream.add_argument("--stream", action="store_true", help="feed the audio in chunks")
    stream.add_argument(
        "--chunk-ms", type=positive_int, default=100, metavar="N", help="chunk length (default 100)"
    )
    stream.add_argument(
        "--live", action="store_true", help="feed at the speed of speech, not as fast as possible"
    )
    many = parser.add_argument_group("many recordings")
    many.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="processes that score (default 1; with --ray as many as the cluster's CPUs hold); the "
        "cores are shared among them, unless --threads",
    )
    add_ray_options(many, "score on the machines of a Ray cluster, a CPU a worker")
    many.add_argument(
        "--resume",
        action="store_true",
        help="go on where an earlier call with this --output stopped, or begin",
    )
    add_engine_options(parser)
    add_json_option(parser, "one JSON object a line, one line a recording,")
    parser.add_argument(
        "--format",
        choices=FORMAT_NAMES,
        help="print JSON, CSV, a TextGrid of Praat's or Azure's JSON instead of a table",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE_OR_DIR",
        help="write one file (.jsonl, .csv, .parquet), or in a folder one of --format for each "
        "recording",
    )


def run(args: argparse.Namespace) -> int:
    """Score what was asked for; go on past recordings that cannot be read."""
    _check_options(args)
    if args.session:
        return _assess_sessions(_load(args, args.text is not None), args)
    from asa_engine.batch.recordings import read_recordings
    from asa_engine.cli.batch import score_all

    given = _standard_input(args)
    recordings = read_recordings(
        args.audio, text=args.text or "", prompt=args.prompt or "", standard_input=given
    )
    if args.format == "textgrid" and len(recordings) > 1 and args.output is None:
        raise UsageError(
            f"several recordings do not fit in one {args.format}",
            hint="add --output DIR, which gets a file for each",
        )
    if _by_others(args) and any(_is_pipe(recording.audio) for recording in recordings):
        raise UsageError("pipes are read by one process alone", hint=_alone(args))
    engine = _load(args, any(recording.text for recording in recordings))
    if engine.hears_sessions:
        raise UsageError(
            f"the {engine.grader} grader scores sessions, not recordings",
            hint="pass a --session file or folder",
        )

    def assess(recording: Recording) -> Assessment:
        texts = recording.texts(engine.uses)
        if args.stream:
            return _stream_file(engine, recording.audio, args, texts)
        return engine.assess(_source(recording.audio), **texts)

    def rows(rest: Sequence[Recording]) -> Generator[Row, None, None]:
        if not rest or not _by_others(args) or (len(rest) < 2 and not args.ray):
            from asa_engine.batch.scoring import score_here

            return score_here(rest, assess)
        options = _engine_options(args, engine)
        if args.ray:
            from asa_engine.cluster.batch import score_on_ray

            return score_on_ray(rest, options, engine.uses, workers=args.workers, gpus=args.gpus)
        from asa_engine.batch.processes import score_in_processes

        return score_in_processes(rest, options, engine.uses, workers=min(args.workers, len(rest)))

    return score_all(recordings, rows, engine, args)


def _check_options(args: argparse.Namespace) -> None:
    """Make --json and --format one, and refuse what does not go together."""
    if args.json and args.format not in (None, "json"):
        raise UsageError(
            f"--json and --format {args.format} are two forms", hint="leave out one of them"
        )
    args.format = "json" if args.json else args.format
    args.json = args.format == "json"
    if bool(args.audio) == bool(args.session):
        raise UsageError("name recordings, or a --session", hint="see asa-engine assess --help")
    if args.audio.count(STANDARD_INPUT) > 1:
        raise UsageError("standard input can be read once", hint="name - once")
    if args.resume and args.output is None:
        raise UsageError("--resume needs results to go on with", hint="add -o results.jsonl")
    if args.gpus and not args.ray:
        raise UsageError("--gpus is for --ray", hint="leave out one, or add the other")
    if _by_others(args) and (args.stream or args.live):
        raise UsageError("--stream takes one worker", hint=_alone(args))
    if not args.session:
        return
    if args.format not in (None, "json") or args.output:
        raise UsageError("sessions are printed as a table or as JSON", hint="use --json")
    if _by_others(args):
        raise UsageError("sessions are scored by one worker", hint=_alone(args))


def _by_others(args: argparse.Namespace) -> bool:
    """Tell whether other processes than this one score."""
    return bool(args.ray) or (args.workers or 1) > 1


def _alone(args: argparse.Namespace) -> str:
    return f"leave out {'--ray' if args.ray else '--workers'}"


def _load(args: argparse.Namespace, reading: bool) -> Engine:
    return load_engine(args, reading=reading, threads=_threads(args))


def _threads(args: argparse.Namespace) -> int | None:
    """Return the threads of each engine: several share the cores, of which Ray's each have one."""
    from asa_engine.selection import default_threads, usable_cores

    threads: int | None = args.threads
    workers: int = args.workers or 1
    if args.ray:
        return threads or 1
    if threads is not None or workers == 1:
        return threads
    return max(1, min(default_threads(), usable_cores() // workers))


def _engine_options(args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    """Return the arguments of `load` that give a worker the same engine."""
    return {
        "bundle": str(engine.bundle.path),
        "backend": engine.choice.backend,
        "precision": engine.choice.precision,
        "threads": engine.threads,
    }


def _standard_input(args: argparse.Namespace) -> Any:
    """Return what - may be a manifest on; a stream is not waited for."""
    if STANDARD_INPUT not in args.audio or args.stream:
        return None
    try:
        return standard_input()
    except AudioError:
        return None  # said again when it is to be scored


def _is_pipe(path: Path) -> bool:
    try:
        return path == STANDARD_INPUT or stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _assess_sessions(engine: Engine, args: argparse.Namespace) -> int:
    from asa_engine.cli.tables import table
    from asa_engine.evaluation.sessions import assess_session, read_sessions

    if (args.stream and not engine.hears_sessions) or args.live:
        raise UsageError(
            "--session is streamed for graders of sessions alone, and never --live",
            hint="leave out --stream and --live",
        )
    code = 0
    for session in read_sessions(args.session):
        try:
            if args.stream:
                result = _stream_session(engine, session, args)
            else:
                result = assess_session(engine, session)
        except AsaError as error:
            from asa_engine.cli.main import report_error

            report_error(error, as_json=args.json, session=session.name)
            code = error.exit_code
            continue
        if args.json:
            print(json.dumps({"session": session.name, **result.to_dict()}), flush=True)
        else:
            print(table(result, f"session {session.name}"), flush=True)
        if not result.validity.scorable:
            code = AudioError.exit_code
    return code


def _stream_session(engine: Engine, session: Session, args: argparse.Namespace) -> Assessment:
    """Feed a session chunk by chunk; show provisional scores to who watches."""
    from asa_engine.evaluation.sessions import assess_whole

    shown: dict[str, float] = {}

    def watch(stream: SessionStream) -> None:
        if args.json or not sys.stderr.isatty() or not (scores := stream.provisional):
            return
        values = {name: round(score.value, 1) for name, score in scores.items()}
        if values != shown:
            shown.clear()
            shown.update(values)
            print("  ".join(f"{n} {v:.1f}" for n, v in values.items()), file=sys.stderr)

    return assess_whole(engine, session, watch=watch, chunk_samples=16 * args.chunk_ms)


def _stream_file(
    engine: Engine, path: Path, args: argparse.Namespace, texts: dict[str, str | None]
) -> Assessment:
    """Feed a file chunk by chunk; show provisional scores to who watches."""
    from asa_engine.audio import open_audio
    from asa_engine.cli.live import LiveView

    show = (args.live or sys.stderr.isatty()) and args.format is None
    view = LiveView(sys.stderr, texts.get("text")) if show else None
    with open_audio(_source(path)) as audio, engine.stream(audio.sample_rate_hz, **texts) as stream:
        chunk_frames = max(1, audio.sample_rate_hz * args.chunk_ms // 1000)
        start, heard = time.perf_counter(), 0
        for block in audio.blocks():
            for first in range(0, len(block), chunk_frames):
                chunk = block[first : first + chunk_frames]
                heard += len(chunk)
                if args.live:
                    ahead_s = heard / audio.sample_rate_hz - (time.perf_counter() - start)
                    time.sleep(max(0.0, ahead_s))
                stream.feed(chunk)
                if view is not None:
                    view.update(stream, heard / audio.sample_rate_hz)
        return stream.finish() if view is None else view.finish(stream)


def _source(path: Path) -> AudioSource:
    return standard_input() if path == STANDARD_INPUT else path
