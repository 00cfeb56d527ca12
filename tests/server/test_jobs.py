"""A live stream's two sides, without a network: bytes in, messages out, both bounded."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest
from audio_samples import RATE_HZ, speech

import asa_engine as asa
from asa_engine.assessment import Assessment
from asa_engine.profiling import Span
from asa_engine.server.jobs import MAX_UNTAKEN, TURN_S, WAITING_S, Job, Provisional, StreamJob
from asa_engine.server.metrics import Metrics
from asa_engine.server.refusal import BadRequest, TooLarge

SECOND = bytes(2 * RATE_HZ)


class _Worker:
    """Gives turns when told to, on the event loop's own thread."""

    def __init__(self, engine: asa.Engine) -> None:
        self.engine = engine
        self.waiting: list[Job] = []

    async def work(self) -> None:
        """Give turns until nobody waits."""
        while self.waiting:
            job = self.waiting.pop(0)
            if job.turn(self.engine):
                self.waiting.append(job)
        await asyncio.sleep(0)  # what the turns said arrives


def _stream(worker: _Worker, max_s: float = 600.0) -> StreamJob:
    job = StreamJob(Metrics(), max_s, sample_rate_hz=RATE_HZ, dtype="<i2")
    job.assign(worker.waiting.append)
    return job


async def _is_held_back(job: StreamJob) -> bool:
    try:
        await asyncio.wait_for(job.feed(SECOND), 0.05)
    except TimeoutError:
        return True
    return False


def test_audio_that_waits_is_bounded(offline: asa.Engine) -> None:
    async def scenario() -> None:
        worker = _Worker(offline)
        job = _stream(worker)
        for _ in range(int(WAITING_S)):
            await job.feed(SECOND)
        assert job.waiting_s == WAITING_S
        assert await _is_held_back(job)
        await worker.work()
        assert job.waiting_s == 0.0
        assert not await _is_held_back(job)

    asyncio.run(scenario())


def test_messages_that_nobody_takes_are_bounded(offline: asa.Engine) -> None:
    async def scenario() -> None:
        worker = _Worker(offline)
        job = _stream(worker)
        for _ in range(MAX_UNTAKEN + 1):
            await job.feed(SECOND)
            await worker.work()
        assert await _is_held_back(job)
        await worker.work()
        first = await job.next()
        assert isinstance(first, Provisional)
        assert first.windows == 1
        for _ in range(MAX_UNTAKEN):
            await job.next()
        assert not await _is_held_back(job)

    asyncio.run(scenario())


def test_waiting_ends_when_the_stream_does(offline: asa.Engine) -> None:
    async def scenario() -> None:
        job = _stream(_Worker(offline))
        held = asyncio.create_task(job.feed(SECOND * 10))
        await asyncio.sleep(0)
        assert not held.done()
        job.close()
        await asyncio.wait_for(held, 10)

    asyncio.run(scenario())


def test_a_finished_stream_takes_nothing_more(offline: asa.Engine) -> None:
    async def scenario() -> None:
        worker = _Worker(offline)
        job = _stream(worker)
        await job.feed(SECOND)
        job.finish()
        with pytest.raises(BadRequest, match="after finish"):
            await job.feed(SECOND)
        with pytest.raises(BadRequest, match="already"):
            job.finish()
        await worker.work()
        assert isinstance(await job.next(), Assessment)
        assert job.outcome == "finished"

    asyncio.run(scenario())


def test_a_stream_is_no_longer_than_is_taken(offline: asa.Engine) -> None:
    async def scenario() -> None:
        job = _stream(_Worker(offline), max_s=1.5)
        await job.feed(SECOND)
        with pytest.raises(TooLarge, match=r"longer than 1\.5 s"):
            await job.feed(SECOND)

    asyncio.run(scenario())


def test_windows_of_words_count_as_encoded_ones_do() -> None:
    async def scenario() -> None:
        metrics = Metrics()
        job = StreamJob(metrics, 10.0, sample_rate_hz=RATE_HZ, dtype="<i2")
        for span in (
            Span("encoder", 0.0, 1.0, 1.0, {"frames": 200}),
            Span("recogniser", 1.0, 2.0, 1.0, {"windows": 0}),
            Span("recogniser", 2.0, 3.0, 1.0, {"windows": 2}),
            Span("head", 3.0, 4.0, 1.0, {}),
        ):
            job._take_span(span)
        assert "asa_windows_encoded_total 3.0\n" in metrics.render({}, 0.0).decode()

    asyncio.run(scenario())


@pytest.mark.parametrize("bundle", ["fake", "acoustic"])
def test_turns_are_few_and_no_score_is_late(bundle: str, offline: asa.Engine) -> None:
    """Half a second of audio gets one, and what closes a window: its scores come at once."""
    engine = offline if bundle == "fake" else asa.load("acoustic", threads=1)
    spoken = np.round(np.tile(speech(4.0, seed=3), 4) * 32_767).astype("<i2")
    frames = np.split(spoken, range(RATE_HZ // 10, len(spoken), RATE_HZ // 10))
    with engine.stream(RATE_HZ) as whole:
        seen = []
        for frame in frames:
            whole.feed(frame)
            seen.append(whole.provisional)

    async def scenario() -> None:
        worker, told, turns = _Worker(engine), None, 0
        job = _stream(worker)
        for frame, expected in zip(frames, seen, strict=True):
            await job.feed(frame.tobytes())
            turns += len(worker.waiting)
            await worker.work()
            while not job._outbox.empty():
                told = (await job.next()).scores
            values = expected and {name: score.to_dict() for name, score in expected.items()}
            assert told == values
        closed = sum(after != before for before, after in itertools.pairwise(seen))
        assert closed >= 2
        # Of what stays undecided until the front's next block some turns find nothing.
        assert turns <= len(spoken) / RATE_HZ / TURN_S + 4 * closed + 1

    asyncio.run(scenario())


def test_little_audio_that_nothing_follows_gets_its_turn(offline: asa.Engine) -> None:
    async def scenario() -> None:
        worker = _Worker(offline)
        job = _stream(worker)
        await job.feed(SECOND[: 2 * RATE_HZ // 10])
        await worker.work()
        await job.feed(SECOND[:320])
        assert not worker.waiting
        while not worker.waiting:
            await asyncio.sleep(0.05)
        await worker.work()
        assert job.waiting_s == 0.0

    asyncio.run(asyncio.wait_for(scenario(), 10))
