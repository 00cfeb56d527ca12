"""Entry point of `asa-engine`: find the command, run it, turn errors into one clear line."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from asa_engine.errors import AsaError

__all__ = ["COMMANDS", "build_parser", "main"]

COMMANDS = (
    "assess",
    "evaluate",
    "train",
    "export",
    "verify",
    "tune",
    "bench",
    "profile",
    "serve",
    "doctor",
    "graders",
    "backbones",
    "corpus",
    "completion",
)

EXIT_CODES = """\
exit codes:
  0  done
  2  wrong usage
  3  the audio cannot be read or scored
  4  a bundle, checkpoint or backend is unusable
  5  a parity or drift budget is exceeded
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the whole parser; every command adds its own part."""
    parser = argparse.ArgumentParser(
        prog="asa-engine",
        description="Score learners' spoken English on this device, while they speak.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"asa-engine {metadata.version('asa-engine')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"asa_engine.cli.{name}").register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except AsaError as error:
        report_error(error, as_json=getattr(args, "json", False))
        return error.exit_code
    except KeyboardInterrupt:
        print("asa-engine: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`): not an error, but stdout must not be flushed again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def report_error(error: AsaError, *, as_json: bool, **context: str) -> None:
    """Print one clear line to standard error, and the error as JSON to standard output."""
    print(f"asa-engine: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps({**context, **error.to_dict()}), flush=True)
