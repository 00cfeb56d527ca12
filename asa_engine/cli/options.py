"""Options that several commands share, declared once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asa_engine.runtimes import RUNTIMES
from asa_engine.selection import AUTO, PRECISIONS

__all__ = [
    "FORMAT_NAMES",
    "STORE",
    "STORE_KEY",
    "add_bundle_and_data",
    "add_command",
    "add_engine_options",
    "add_json_option",
    "add_ray_options",
    "port",
    "positive_float",
    "positive_int",
]

STORE, STORE_KEY = "ASA_STORE", "ASA_STORE_KEY"
"""Environment variables: a store's address, and the key itself."""

FORMAT_NAMES = ("json", "csv", "textgrid", "azure")
"""Of `asa_engine.formats`, which is imported late: help should not wait for it."""


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


def add_bundle_and_data(
    parser: argparse.ArgumentParser,
    metavar: str = "BUNDLE",
    help: str = "a bundle's folder, or the name of one that ships",
) -> None:
    """Add a bundle and --data, the manifest that it is run on."""
    parser.add_argument("bundle", metavar=metavar, help=help)
    parser.add_argument("--data", type=Path, required=True, metavar="MANIFEST", help="JSON Lines")


def add_engine_options(parser: argparse.ArgumentParser, *, bundle: bool = True) -> None:
    """Add --bundle, --backend, --precision and --threads."""
    group = parser.add_argument_group("engine")
    if bundle:
        group.add_argument(
            "--bundle",
            type=Path,
            metavar="B",
            help="bundle or checkpoint folder, or pronunciation or acoustic, which ship (default: "
            "pronunciation; acoustic for a --backend or --precision that only it has)",
        )
    group.add_argument(
        "--backend",
        default=AUTO,
        choices=[AUTO, *RUNTIMES],
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


def add_ray_options(group: Any, help: str) -> None:
    """Add --ray and --gpus."""
    group.add_argument(
        "--ray",
        action="store_true",
        help=f"{help}; the one in $RAY_ADDRESS, or one started on this machine's loopback",
    )
    group.add_argument(
        "--gpus",
        type=float,
        default=0.0,
        metavar="N",
        help="with --ray: NVIDIA GPUs of each, or a share such as 0.5 (default 0)",
    )


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


def port(text: str) -> int:
    """Parse a port; 0 is any that is free."""
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)
