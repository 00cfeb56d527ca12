"""How long clients are waited for, on a clock that a test moves."""

from __future__ import annotations

import asyncio

import pytest

from asa_engine.server.watch import Patience, Watch


class _Client:
    """Patience with one client: idle for ten seconds at most."""

    def __init__(self) -> None:
        self.watch = Watch(1.0)
        self.expired = 0
        self.patience = Patience(self.watch, 10.0, self._expire)

    def _expire(self) -> None:
        self.expired += 1

    def wait(self, seconds: float) -> int:
        """Let awake seconds pass; return how often the patience ended."""
        self.watch.awake_s += seconds
        self.patience.look()
        return self.expired


def test_silence_ends_it() -> None:
    client = _Client()
    assert client.wait(10.0) == 0
    assert client.wait(0.1) == 1


def test_enough_speech_keeps_it() -> None:
    client = _Client()
    for _ in range(100):
        assert client.wait(9.0) == 0
        client.patience.heard(9.0)


def test_a_trickle_ends_it() -> None:
    client = _Client()
    heard = 0
    while not client.wait(1.0):
        client.patience.heard(0.5)
        heard += 1
    assert heard == 19  # at 20 s, one for each second before: ten seconds and 19 halves


def test_what_the_server_does_not_read_is_not_missed() -> None:
    client = _Client()
    with client.patience.held():
        assert client.wait(1000.0) == 0
    assert client.wait(10.0) == 0
    assert client.wait(0.1) == 1


def test_the_clock_stands_still_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 1.0, 3601.0, 3601.0, 3602.0])
    looks: list[tuple[float, float]] = []

    class Over(Exception):
        pass

    def look(awake_s: float, late_s: float) -> None:
        looks.append((awake_s, late_s))
        if len(looks) == 3:
            raise Over

    async def scenario() -> None:
        watch = Watch(1.0, look)
        with monkeypatch.context() as patch:
            patch.setattr("asa_engine.server.watch.time.monotonic", lambda: next(times))
            patch.setattr("asa_engine.server.watch.asyncio.sleep", _no_wait)
            with pytest.raises(Over):
                await watch.run()

    asyncio.run(scenario())
    assert looks == [(1.0, 0.0), (3.0, 3599.0), (4.0, 0.0)]


async def _no_wait(seconds: float) -> None:
    pass


def test_a_rest_is_granted_once() -> None:
    client = _Client()
    assert client.wait(9.0) == 0
    client.patience.rest(100.0)
    assert client.wait(100.0) == 0
    client.patience.rest(0.0)
    assert client.wait(10.0) == 0
    assert client.wait(0.1) == 1
