"""Entry point of `asa-engine`: find the command, run it, turn errors into one clear line."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence

import asa_engine
from asa_engine.cli import interrupt
from asa_engine.cli.streams import ready_streams, say, stdout_fails
from asa_engine.errors import AsaError

__all__ = ["COMMANDS", "build_parser", "main"]

COMMANDS = (
    "assess",
    "listen",
    "convert",
    "report",
    "evaluate",
    "train",
    "export",
    "verify",
    "tune",
    "bench",
    "profile",
    "serve",
    "kiosk",
    "doctor",
    "graders",
    "backbones",
    "corpus",
    "completion",
)

UNWRITABLE = 1
# Commands that leave nothing half-done behind.
_READERS = (
    "assess", "listen", "convert", "report", "evaluate", "kiosk", "doctor", "graders", "completion",
)  # fmt: skip

EXIT_CODES = """\
exit codes:
  0  done
  1  the result cannot be written
  2  wrong usage
  3  the audio cannot be read or scored
  4  a bundle, checkpoint or backend is unusable
  5  a parity or drift budget is exceeded
  130  interrupted
"""


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; every command adds its own part.

    Args:
        only: The one command that is wanted, so that nothing is imported for the others.
    """
    parser = argparse.ArgumentParser(
        prog="asa-engine",
        description="Score learners' spoken English on this device, while they speak.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"asa-engine {asa_engine.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in [only] if only else COMMANDS:
        importlib.import_module(f"asa_engine.cli.{name}").register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    has_output = ready_streams()
    try:
        try:
            given = list(sys.argv[1:] if argv is None else argv)
            named = given[0] if given and given[0] in COMMANDS else None
            args = build_parser(named).parse_args(given)
        except SystemExit:
            sys.stdout.flush()  # what --help printed
            raise
        if not has_output:
            say("asa-engine: standard output is closed (open it, or send it to /dev/null)")
            return UNWRITABLE
        interrupt.clean_up(deadline=args.command in _READERS)
        code = _run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        if not interrupt.has_come():
            say("asa-engine: interrupted")
        return interrupt.EXIT_CODE
    except OSError as error:
        if not stdout_fails():
            raise
        return _unwritten(error)
    except BaseException:
        if interrupt.has_come():  # what it broke on its way is nobody's business
            return interrupt.EXIT_CODE
        raise
    finally:
        interrupt.leave_at_once()
    return interrupt.EXIT_CODE if interrupt.has_come() else code


def _run(args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args)
    except AsaError as error:
        report_error(error, as_json=getattr(args, "json", False))
        return error.exit_code
    return code


def _unwritten(error: OSError) -> int:
    """Answer standard output that takes nothing; a reader that went away (`| head`) is no error."""
    _drop_stdout()
    if isinstance(error, BrokenPipeError):
        return 0
    say(f"asa-engine: standard output cannot be written: {error.strerror}")
    return UNWRITABLE


def _drop_stdout() -> None:
    """Send what is left in standard output's buffer nowhere: it is flushed again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report_error(error: AsaError, *, as_json: bool, **context: str) -> None:
    """Print one clear line to standard error, and the error as JSON to standard output."""
    if interrupt.has_come():
        raise KeyboardInterrupt
    say(f"asa-engine: {error}")
    if as_json:
        try:
            print(json.dumps({**context, **error.to_dict()}), flush=True)
        except OSError:
            if not stdout_fails():
                raise
            _drop_stdout()  # the error is the news
