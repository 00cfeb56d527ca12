"""Whose turn it is."""

from __future__ import annotations

import asyncio

import numpy as np

from asa_engine.server.jobs import Job, StreamJob, UploadJob
from asa_engine.server.metrics import Metrics
from asa_engine.server.pool import Returns, Turns


async def _jobs() -> tuple[dict[str, Job], dict[Job, str]]:
    metrics = Metrics()
    jobs: dict[str, Job] = {
        name: StreamJob(metrics, 60.0, sample_rate_hz=16_000, dtype="<i2") for name in ("a", "b")
    }
    jobs |= {name: UploadJob(metrics, 60.0) for name in ("X", "Y")}
    return jobs, {job: name for name, job in jobs.items()}


def _order(waiting: str, turns: int) -> str:
    """Take so many turns, everyone queueing again after each; return who had them."""
    jobs, names = asyncio.run(_jobs())
    queue = Turns()
    for name in waiting:
        queue.put(jobs[name])
    told = ""
    for _ in range(turns):
        job = queue.take()
        assert job is not None
        told += names[job]
        queue.put(job)
    return told


def test_streams_share_alike() -> None:
    assert _order("ab", 6) == "ababab"


def test_uploads_share_what_streams_leave() -> None:
    assert _order("XY", 4) == "XYXY"
    assert _order("XYab", 15) == "ababXababYababX"


def test_a_stream_does_not_stand_behind_uploads() -> None:
    assert _order("XYa", 6) == "aaaaXa"


def test_a_closed_queue_gives_no_turns() -> None:
    jobs, _ = asyncio.run(_jobs())
    queue = Turns()
    queue.put(jobs["a"])
    queue.close()
    assert queue.take() is None


def test_a_crowd_comes_again_one_after_another() -> None:
    """The first two seconds later, a hundred in the ten after that, nobody in over a minute."""
    returns = Returns()
    crowd = [returns.after_s(0.0) for _ in range(101)]
    assert crowd[0] == 2.0
    np.testing.assert_allclose(np.diff(crowd), 0.1)
    assert [returns.after_s(5.0) for _ in range(2000)][-1] == 60.0
    assert returns.after_s(80.0) == 2.0
