"""Child processes whose pipes a test holds, and methods that wait until a test lets them go."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pytest


@contextmanager
def piped(*command: str) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """Start a command; give it, its output and its errors, both as text."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stderr is not None
    with child.stdout as output, child.stderr as errors:
        yield child, output, errors


def held(
    patch: pytest.MonkeyPatch, owner: type, method: str
) -> tuple[threading.Event, threading.Event]:
    """Make every call of a method wait; return what says that one has begun, what lets them go."""
    begun, go_on = threading.Event(), threading.Event()
    original = getattr(owner, method)

    def wait(self: Any, *arguments: Any, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return original(self, *arguments, **options)

    patch.setattr(owner, method, wait)
    return begun, go_on
