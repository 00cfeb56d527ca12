"""`asa-engine assess`: score recordings, one line each as soon as it is scored."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asa_engine.cli.options import add_command, add_engine_options, add_json_option, positive_int
from asa_engine.errors import AsaError, AudioError, UsageError

if TYPE_CHECKING:
    from asa_engine.assessment import Assessment, Word
    from asa_engine.engine import Engine
    from asa_engine.session import Session
    from asa_engine.session_stream import SessionStream

DETAILS = """\
Scores every recording (WAV, FLAC, OGG, MP3; any sample rate) and prints each one as soon as it is
done. With --stream the audio is fed in chunks, as a microphone would, and provisional scores are
shown while it runs.

examples:
  asa-engine assess answer.flac
  asa-engine assess answers/*.wav --json > scores.jsonl
  asa-engine assess answer.flac --stream --chunk-ms 100 --live
  asa-engine assess --session sessions.jsonl
  asa-engine assess --bundle build/bundles/s4-session --session session-folder --stream
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "assess", run, "Score recordings of learners' speech.", DETAILS)
    parser.add_argument("audio", nargs="*", type=Path, metavar="AUDIO", help="recordings to score")
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
    add_engine_options(parser)
    add_json_option(parser, "one JSON object a line, one line a recording,")


def run(args: argparse.Namespace) -> int:
    """Score what was asked for; go on past recordings that cannot be read."""
    if bool(args.audio) == bool(args.session):
        raise UsageError("name recordings, or a --session", mend="see asa-engine assess --help")
    from asa_engine.engine import load

    engine = load(args.bundle, backend=args.backend, precision=args.precision, threads=args.threads)
    texts = {"text": args.text, "prompt": args.prompt}
    for option, given in texts.items():
        if given is not None and option not in engine.uses:
            raise UsageError(
                f"the {engine.grader} grader does not use --{option}", mend=f"leave out --{option}"
            )
    if args.session:
        if (args.stream and not engine.hears_sessions) or args.live:
            raise UsageError(
                "--session is streamed for graders of sessions alone, and never --live",
                mend="leave out --stream and --live",
            )
        return _assess_sessions(engine, args)
    if engine.hears_sessions:
        raise UsageError(
            f"the {engine.grader} grader scores sessions, not recordings",
            mend="pass a --session file or folder",
        )
    width = max(len(path.name) for path in args.audio)
    code = 0
    for index, path in enumerate(args.audio, start=1):
        _show_progress(index, len(args.audio), path)
        try:
            if args.stream:
                result = _stream_file(engine, path, args, texts)
            else:
                result = engine.assess(path, **texts)
        except AsaError as error:
            from asa_engine.cli.main import report_error

            _clear_progress()
            report_error(error, as_json=args.json, audio=str(path))
            code = error.exit_code
            continue
        _clear_progress()
        if args.json:
            print(json.dumps({"audio": str(path), **result.to_dict()}), flush=True)
        elif len(args.audio) == 1:
            print(table(result, path.name), flush=True)
        else:
            print(f"{path.name:<{width}}  {one_line(result)}", flush=True)
        if not result.validity.scorable:
            code = AudioError.exit_code
    return code


def _assess_sessions(engine: Engine, args: argparse.Namespace) -> int:
    from asa_engine.session import assess_session, read_sessions

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
    from asa_engine.session import assess_whole

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

    show = (args.live or sys.stderr.isatty()) and not args.json
    with open_audio(path) as audio, engine.stream(audio.sample_rate_hz, **texts) as stream:
        chunk_frames = max(1, audio.sample_rate_hz * args.chunk_ms // 1000)
        start, heard, shown = time.perf_counter(), 0, None
        for block in audio.blocks():
            for first in range(0, len(block), chunk_frames):
                chunk = block[first : first + chunk_frames]
                heard += len(chunk)
                if args.live:
                    ahead_s = heard / audio.sample_rate_hz - (time.perf_counter() - start)
                    time.sleep(max(0.0, ahead_s))
                stream.feed(chunk)
                scores = stream.provisional
                if show and scores and scores != shown:
                    shown = scores
                    said = "  ".join(f"{n} {s.value:.1f}" for n, s in scores.items())
                    print(f"{heard / audio.sample_rate_hz:6.1f} s  {said}", file=sys.stderr)
        return stream.finish(_say if show else None)


def _say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def one_line(result: Assessment) -> str:
    """Return the scores, or the reasons why there are none, in one line."""
    if not result.validity.scorable:
        return "cannot be scored: " + ", ".join(result.validity.reasons)
    said = "  ".join(f"{name} {score.value:5.2f}" for name, score in result.scores.items())
    notes = f"  ({', '.join(result.validity.reasons)})" if result.validity.reasons else ""
    return said + notes


def table(result: Assessment, title: str) -> str:
    """Return the result as a table for people."""
    timing = result.timing
    lines = [f"{title}  ({timing.audio_s:.1f} s)", ""]
    if not result.validity.scorable:
        lines.append("cannot be scored: " + ", ".join(result.validity.reasons))
    for name, score in result.scores.items():
        share = (score.value - score.scale_min) / (score.scale_max - score.scale_min)
        bar = "#" * round(20 * share)
        error = f" +- {score.sd:.2f}" if score.sd is not None else ""
        level = f"  {score.level}" if score.level else ""
        lines.append(
            f"  {name:<10} {score.value:5.2f} / {score.scale_max:g}{error}  [{bar:<20}]{level}"
        )
    for part in result.parts:
        said = "  ".join(f"{name} {score.value:.2f}" for name, score in part.scores.items())
        lines.append(
            f"  part {part.part}: {said or 'not scored'}  ({part.scored}/{part.responses})"
        )
    lines += [_word_line(word) for word in result.words if word.label is not None]
    if result.rationale is not None:
        lines.append(f"  {result.rationale}")
    if result.validity.scorable and result.validity.reasons:
        lines.append("  note: " + ", ".join(result.validity.reasons))
    lines += [
        "",
        f"  {result.receipt['backend']} {result.receipt['precision']}, "
        f"{result.receipt['threads']} thread(s); time to score {timing.time_to_score_ms:.1f} ms, "
        f"real-time factor {timing.real_time_factor:.4f}",
    ]
    return "\n".join(lines)


def _word_line(word: Word) -> str:
    """Return a word's label and its phones' labels."""
    phones = "  ".join(f"{p.phone} {p.label}" for p in word.phones if p.label is not None)
    return f"  {word.text:<14} {word.label:<10} {phones}"


def _show_progress(index: int, total: int, path: Path) -> None:
    if total > 1 and sys.stderr.isatty():
        print(f"\r\x1b[K[{index}/{total}] {path.name}", end="", file=sys.stderr, flush=True)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
