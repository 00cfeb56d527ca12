"""How a benchmark's command ends: its lines, or one line that says why there are none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from asa_engine.errors import AsaError


def exit_code(name: str, work: Callable[[], Sequence[str]], interrupted: str = "") -> int:
    """Run a benchmark and print its lines; return the exit code.

    `interrupted` is what to say where Ctrl-C ends it, besides that.
    """
    try:
        lines = work()
    except AsaError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted{interrupted}", file=sys.stderr)
        return 130
    print("\n".join(lines))
    return 0
