"""`asa-engine listen`: score what the microphone hears, while it is spoken."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asa_engine.cli.loading import load_engine
from asa_engine.cli.options import (
    add_command,
    add_engine_options,
    add_json_option,
    positive_float,
)
from asa_engine.cli.streams import say
from asa_engine.errors import AudioError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from asa_engine.audio.microphone import Microphone
    from asa_engine.cli.live import LiveView
    from asa_engine.stream import Stream

    Blocks = list[NDArray[np.int16]]

DETAILS = """\
Needs the extra [mic] and PortAudio (Debian: apt-get install libportaudio2). Scores are shown while
you speak, and the result as 'assess' prints it once you have finished: nobody has spoken for
--quiet seconds since somebody did, or --seconds are over, or you press Ctrl-C, which scores what
was said; a second Ctrl-C leaves without a result.

What is heard is kept nowhere unless you ask for it with -o; 'assess' gives that file the same
scores. Where the system drops samples, a line says when, and lost_s of --json (else empty).

examples:
  asa-engine listen
  asa-engine listen --text "We call it bear."
  asa-engine listen --device "USB" --seconds 30 --json -o answer.wav
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "listen", run, "Score what the microphone hears, while it is spoken.", DETAILS
    )
    parser.add_argument("--text", metavar="T", help="what is read, for graders that use it")
    parser.add_argument("--prompt", metavar="P", help="the task, for graders that use it")
    microphone = parser.add_argument_group("microphone")
    microphone.add_argument(
        "--device",
        metavar="D",
        help="number or a part of the name, as 'python -m sounddevice' lists them (default: the "
        "system's)",
    )
    microphone.add_argument(
        "--quiet",
        type=positive_float,
        default=3.0,
        metavar="S",
        help="seconds without speech that end it, once somebody spoke (default 3)",
    )
    microphone.add_argument(
        "--seconds",
        type=positive_float,
        default=120.0,
        metavar="S",
        help="seconds after which it ends in any case (default 120)",
    )
    add_engine_options(parser)
    add_json_option(parser, "the result")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="WAV", help="keep what was heard in this file"
    )


def run(args: argparse.Namespace) -> int:
    """Listen until the speech is over; print its assessment."""
    from asa_engine.audio.microphone import Microphone
    from asa_engine.batch.recordings import Recording
    from asa_engine.cli.live import LiveView
    from asa_engine.cli.tables import table
    from asa_engine.cli.words import Paint

    _check_options(args)
    engine = load_engine(args, reading=bool(args.text), threads=args.threads)
    if engine.hears_sessions:
        raise UsageError(
            f"the {engine.grader} grader scores sessions, not single answers",
            hint="record the answers, and pass them to asa-engine assess --session",
        )
    microphone = Microphone(args.device, most_s=args.seconds)
    name = microphone.name if args.output is None else str(args.output)
    answer = Recording(name, Path(name), text=args.text or "", prompt=args.prompt or "")
    texts = answer.texts(engine.uses)
    view = None if args.json else LiveView(sys.stderr, texts.get("text"))
    recorded: Blocks | None = None if args.output is None else []
    with engine.stream(microphone.sample_rate_hz, **texts) as stream:
        try:
            with _ctrl_c_stops(microphone), microphone:
                say(f"listening to {microphone.name}: speak; Ctrl-C ends")
                _hear(microphone, stream, view, recorded, args.quiet)
        finally:
            if view is not None:
                view.close()
            if recorded:
                _write(args.output, recorded, microphone.sample_rate_hz)
        result = stream.finish() if view is None else view.finish(stream)
    lost_s = [round(at_s, 3) for at_s in microphone.lost_s]
    if args.json:
        heard = {**answer.to_dict(), "device": microphone.name, "lost_s": lost_s}
        print(json.dumps({**heard, **result.to_dict()}), flush=True)
    else:
        print(table(result, name, Paint.of(sys.stdout)), flush=True)
    if lost_s:
        lost = f"samples were lost, first at {lost_s[0]:.1f} s, times: {len(lost_s)}"
        say(f"asa-engine: {lost} (close other programs, and speak again)")
    return 0 if result.validity.scorable else AudioError.exit_code


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what would fail once somebody has spoken."""
    from asa_engine.audio import MAX_DURATION_S

    if args.seconds > MAX_DURATION_S:
        raise UsageError(f"--seconds is at most {MAX_DURATION_S:g}", hint="listen twice")
    output: Path | None = args.output
    if output is None:
        return
    if output.suffix.lower() != ".wav" or output.is_dir():
        raise UsageError(f"{output}: recordings are kept as WAV", hint="name a file answer.wav")
    if not os.access(output.parent, os.W_OK):
        raise UsageError(f"{output} cannot be written", hint="choose another folder")


def _hear(
    microphone: Microphone,
    stream: Stream,
    view: LiveView | None,
    recorded: Blocks | None,
    most_quiet_s: float,
) -> None:
    """Feed the stream until the speech has ended, or as long as is allowed."""
    from asa_engine.audio.ending import SpeechEnd

    end = SpeechEnd(microphone.sample_rate_hz)
    heard = 0
    for block in microphone.blocks():
        heard += len(block)
        if recorded is not None:
            recorded.append(block)
        stream.feed(block)
        if view is not None:
            view.update(stream, heard / microphone.sample_rate_hz)
        end.push(block)
        if (end.quiet_s or 0.0) >= most_quiet_s:
            return


@contextlib.contextmanager
def _ctrl_c_stops(microphone: Microphone) -> Iterator[None]:
    """Let the first Ctrl-C end the recording; the next one is answered as ever."""
    before = signal.getsignal(signal.SIGINT)

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        microphone.stop()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _write(path: Path, blocks: Blocks, sample_rate_hz: int) -> None:
    import numpy as np
    import soundfile

    from asa_engine.files import atomic_write

    file = io.BytesIO()
    soundfile.write(file, np.concatenate(blocks), sample_rate_hz, format="WAV", subtype="PCM_16")
    atomic_write(path, file.getvalue())
