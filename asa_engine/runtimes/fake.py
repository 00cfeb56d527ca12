"""A runtime that computes nothing: for the tests of those who use the engine."""

from __future__ import annotations

from asa_engine.runtimes.base import Availability, Runtime

__all__ = ["FakeRuntime"]


class FakeRuntime(Runtime):
    """Needs no artifacts and no library."""

    name = "fake"

    @classmethod
    def availability(cls) -> Availability:
        """Always usable."""
        return Availability(True, "needs nothing", {})
