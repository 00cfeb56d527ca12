"""The engine that a command line names, with the options of graders checked against it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from asa_engine.bundle import SHIPPED
from asa_engine.errors import UsageError

if TYPE_CHECKING:
    from asa_engine.engine import Engine

__all__ = ["load_engine"]


def load_engine(args: argparse.Namespace, *, reading: bool, threads: int | None) -> Engine:
    """Load the engine; where a text was read the default is never a grader that hears none.

    Args:
        args: With `bundle`, `backend`, `precision`, `text` and `prompt`.
        reading: Whether there is a text.
        threads: Threads a window is encoded with.

    Raises:
        UsageError: The text is empty; the grader uses no text, or no prompt, and there is one.
    """
    from asa_engine.engine import load

    if args.text is not None and not args.text.strip():
        raise UsageError("the text is empty", hint="give the text that was read, or no --text")
    bundle = SHIPPED[0] if args.bundle is None and reading else args.bundle
    engine = load(bundle, backend=args.backend, precision=args.precision, threads=threads)
    for option in ("text", "prompt"):
        if getattr(args, option) is not None and option not in engine.uses:
            raise UsageError(
                f"the {engine.grader} grader does not use --{option}", hint=f"leave out --{option}"
            )
    return engine
