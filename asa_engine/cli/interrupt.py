"""Ctrl-C: one line and 130, at any moment, and nothing that Python or a library says about it."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` itself imports a dozen modules first
import atexit
import os
import sys

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from types import FrameType

__all__ = ["EXIT_CODE", "answer", "clean_up", "has_come", "leave_at_once"]

EXIT_CODE = 130
_LINE = b"asa-engine: interrupted\n"
_LEAVES_AFTER_S = 2.0  # an interrupt that a library swallowed must not be in vain

_process = -1
_seen = False
_at_once = True
_has_deadline = False


def answer() -> None:
    """Take over Ctrl-C; until `clean_up` it ends the process on the spot."""
    global _process
    _process = os.getpid()
    _signal.signal(_signal.SIGINT, _interrupt)
    atexit.register(_leave)  # the first to be registered is the last to be called


def clean_up(*, deadline: bool) -> None:
    """Let Ctrl-C rise as KeyboardInterrupt from now on, so that files are tidied up.

    Args:
        deadline: Whether the process then ends in a moment, whatever it does.
    """
    global _at_once, _has_deadline
    _at_once, _has_deadline = False, deadline


def leave_at_once() -> None:
    """End the process on the spot at the next Ctrl-C: there is nothing to tidy up any more."""
    global _at_once
    _at_once = True


def has_come() -> bool:
    """Tell whether there was an interrupt."""
    return _seen


def _leave() -> None:
    # CPython kills itself with SIGINT at its end where the interrupt came inside a text that
    # `exec` ran, as dataclasses do, and whoever caught it since.
    if _seen and os.getpid() == _process:
        os._exit(EXIT_CODE)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _seen
    first, _seen = not _seen, True
    if first and os.getpid() == _process:  # not a worker: Ctrl-C reaches all of them
        try:
            os.write(2, _LINE)
        except OSError:
            pass
    if _at_once or not first:
        os._exit(EXIT_CODE)
    # What was interrupted may complain: callbacks, finalisers, half-imported modules.
    sys.stderr = open(os.devnull, "w")
    sys.unraisablehook = lambda _: None
    if _has_deadline:
        import threading

        timer = threading.Timer(_LEAVES_AFTER_S, os._exit, (EXIT_CODE,))
        timer.daemon = True
        timer.start()
    raise KeyboardInterrupt
