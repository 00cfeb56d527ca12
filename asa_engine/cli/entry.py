"""Where `asa-engine` begins: Ctrl-C is answered before anything large is imported."""

from __future__ import annotations

import gc
import os
import sys

from asa_engine.cli import interrupt

__all__ = ["main"]


def main() -> int:
    """Run the command line; return the exit code."""
    interrupt.answer()
    gc.set_threshold(50_000)  # what is imported stays: looking through it for garbage is in vain
    if sys.argv[1:2] in (["assess"], ["listen"]):
        # NumPy's products here are small; its threads would spin for a while before they sleep.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from asa_engine.cli.main import main as run

    return run()
