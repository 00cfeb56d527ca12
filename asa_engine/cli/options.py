"""Options that several commands share, declared once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asa_engine.backends import BACKENDS
from asa_engine.selection import AUTO, PRECISIONS

__all__ = ["add_command", "add_engine_options", "add_json_option", "positive_float", "positive_int"]


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, details: str = ""
) -> argparse.ArgumentParser:
    """Add a subcommand whose `run(args)` returns the exit code."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=f"{help}\n\n{details}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_engine_options(parser: argparse.ArgumentParser, *, bundle: bool = True) -> None:
    """Add --bundle, --backend, --precision and --threads."""
    group = parser.add_argument_group("engine")
    if bundle:
        group.add_argument(
            "--bundle",
            type=Path,
            metavar="B",
            help="bundle or checkpoint folder (default: the bundle that ships)",
        )
    group.add_argument(
        "--backend",
        default=AUTO,
        choices=[AUTO, *BACKENDS],
        help="what runs the grader (default: auto, the fastest that holds the scores)",
    )
    group.add_argument(
        "--precision",
        default=AUTO,
        choices=[AUTO, *PRECISIONS],
        help="arithmetic of the encoder (default: auto)",
    )
    group.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="threads a window is encoded with (default: the cores at hand, at most 4)",
    )


def add_json_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def positive_int(text: str) -> int:
    """Parse an integer of at least one."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def positive_float(text: str) -> float:
    """Parse a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
