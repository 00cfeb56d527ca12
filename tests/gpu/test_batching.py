"""Windows of many streams on their way to a GPU: fairness, bounds, and what hurts whom."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from gpu_samples import PLAIN, random_mel, random_weights, reader
from numpy.typing import NDArray

from asa_engine.errors import AudioError, BackendError
from asa_engine.gpu.batching import Batcher, Schedule, Work
from asa_engine.gpu.device import Limits, Outputs, Ragged
from asa_engine.gpu.numpy_device import NumpyDevice, NumpyModel

LIMITS = Limits(windows=4, frames=60)


def work(stream: object, frames: int = 10, seed: int = 0, **fields: object) -> Work:
    return Work(stream, random_mel(2 * frames, seed), frames, **fields)  # type: ignore[arg-type]


def numpy_model(limits: Limits = LIMITS) -> NumpyModel:
    return NumpyDevice().load(PLAIN, reader(random_weights(PLAIN)), "fp32", limits)


class Fragile:
    """A model that fails on any batch with a window of 13 frames, and remembers its batches."""

    def __init__(self) -> None:
        self.model = numpy_model()
        self.batches: list[list[int]] = []

    def encode(
        self, batch: Ragged, sums: NDArray[np.float64] | None = None, *, frames: bool = False
    ) -> Outputs:
        self.batches.append(batch.frames)
        if 13 in batch.frames:
            raise RuntimeError("illegal memory access")
        return self.model.encode(batch, sums, frames=frames)

    def head(self, stats: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.model.head(stats)

    def close(self) -> None:
        self.model.close()


def streams_of(batch: list[Work]) -> list[object]:
    return [work.stream for work in batch]


def test_every_stream_is_served_before_any_is_served_twice() -> None:
    schedule = Schedule(Limits(3, 1000))
    for _ in range(3):
        schedule.add(work("greedy"))
    for name in ("b", "c", "d"):
        schedule.add(work(name))
    assert streams_of(schedule.take()) == ["greedy", "b", "c"]
    schedule.add(work("b"))
    assert streams_of(schedule.take()) == ["d", "greedy", "b"]
    assert streams_of(schedule.take()) == ["greedy"]
    assert schedule.take() == []
    assert len(schedule) == 0


def test_one_stream_alone_fills_a_batch_in_its_order() -> None:
    schedule = Schedule(LIMITS)
    works = [work("only", seed=i) for i in range(6)]
    for each in works:
        schedule.add(each)
    assert schedule.take() == works[:4]
    assert schedule.take() == works[4:]


def test_no_small_window_passes_a_large_one() -> None:
    schedule = Schedule(LIMITS)
    large = work("large", frames=50)
    schedule.add(work("a", frames=20))
    schedule.add(large)
    schedule.add(work("b", frames=5))
    assert streams_of(schedule.take()) == ["a"]
    assert streams_of(schedule.take()) == ["large", "b"]


@pytest.mark.parametrize("streams", [1, 5, 33])
def test_nobody_waits_longer_than_one_round(streams: int) -> None:
    """Every stream always has a window waiting; between two of its turns, every other has one."""
    schedule = Schedule(LIMITS)
    for name in range(streams):
        schedule.add(work(name))
    served: list[object] = []
    for _ in range(3 * streams):
        for each in schedule.take():
            served.append(each.stream)
            schedule.add(work(each.stream))
    for name in range(streams):
        turns = [i for i, stream in enumerate(served) if stream == name]
        assert max(np.diff(turns)) <= streams + LIMITS.windows - 1


def test_samples_and_log_mels_do_not_share_a_batch() -> None:
    schedule = Schedule(LIMITS)
    schedule.add(Work("samples", np.zeros(3200, np.float32), 10))
    schedule.add(work("mel"))
    schedule.add(Work("more samples", np.zeros(3200, np.float32), 10))
    assert streams_of(schedule.take()) == ["samples", "more samples"]
    assert streams_of(schedule.take()) == ["mel"]


def test_queues_are_bounded() -> None:
    schedule = Schedule(LIMITS, max_waiting=5, max_waiting_a_stream=3)
    for _ in range(3):
        schedule.add(work("a"))
    with pytest.raises(BackendError, match="3 windows wait"):
        schedule.add(work("a"))
    schedule.add(work("b"))
    schedule.add(work("c"))
    with pytest.raises(BackendError, match="5 windows wait"):
        schedule.add(work("d"))
    schedule.take()
    schedule.add(work("d"))


def test_a_window_longer_than_any_batch_is_refused() -> None:
    with pytest.raises(BackendError, match="61 frames is longer than the GPU's largest batch, 60"):
        Schedule(LIMITS).add(work("a", frames=61))


def test_a_score_is_the_same_in_every_batch() -> None:
    """Sums and kept frames come back to the window they belong to."""
    model, rng = numpy_model(), np.random.default_rng(0)
    works = [work(i, frames=5 + i, seed=i) for i in range(6)]
    for i in (1, 4):
        works[i].sums = rng.uniform(50, 60, PLAIN.stats_width)
        works[i].keep = True
    batcher = Batcher(model, LIMITS)
    for each in works:
        batcher.submit(each)
    assert [batcher.step() for _ in range(3)] == [4, 2, 0]
    for each in works:
        alone = model.encode(
            Ragged.of([each.window]), None if each.sums is None else each.sums[None], frames=True
        )
        found = each.future.result(0)
        np.testing.assert_array_equal(found.stats, alone.stats)
        np.testing.assert_array_equal(found.scores, alone.scores)
        np.testing.assert_array_equal(found.prior, alone.prior)
        assert (found.frames is not None) == each.keep
        if found.frames is not None and alone.frames is not None:
            np.testing.assert_array_equal(found.frames[0], alone.frames[0])


def test_nan_never_reaches_the_gpu() -> None:
    batcher = Batcher(Fragile(), LIMITS)
    broken, good = work("broken"), work("good")
    broken.window[3, 4] = np.nan
    for each in (broken, good):
        batcher.submit(each)
    assert batcher.step() == 1
    with pytest.raises(AudioError, match="NaN"):
        broken.future.result(0)
    assert np.isfinite(good.future.result(0).scores).all()


def test_sums_that_overflow_hurt_only_their_stream() -> None:
    batcher = Batcher(numpy_model(), LIMITS)
    broken, good = work("broken"), work("good")
    broken.window[:] = 1e38
    for each in (broken, good):
        batcher.submit(each)
    with np.errstate(over="ignore", invalid="ignore"):
        batcher.step()
    with pytest.raises(BackendError, match="overflow"):
        broken.future.result(0)
    assert np.isfinite(good.future.result(0).scores).all()


def test_a_window_the_gpu_fails_on_hurts_only_its_stream() -> None:
    model = Fragile()
    batcher = Batcher(model, LIMITS)
    works = [work("a"), work("bad", frames=13), work("c", frames=7)]
    for each in works:
        batcher.submit(each)
    batcher.step()
    assert model.batches == [[10, 13, 7], [10], [13], [7]]
    with pytest.raises(BackendError, match="illegal memory access"):
        works[1].future.result(0)
    for i in (0, 2):
        assert np.isfinite(works[i].future.result(0).scores).all()


def test_a_stream_closed_while_it_waits_leaves_nothing_behind() -> None:
    model = Fragile()
    batcher = Batcher(model, LIMITS)
    stays, gone = work("stays"), [work("gone", seed=i) for i in range(3)]
    for each in (gone[0], stays, *gone[1:]):
        batcher.submit(each)
    batcher.cancel("gone")
    batcher.cancel("never there")
    assert batcher.step() == 1
    assert model.batches == [[10]]
    assert stays.future.done()
    for each in gone:
        with pytest.raises(CancelledError):
            each.future.result(0)


def test_a_window_cancelled_by_its_owner_is_not_computed() -> None:
    model = Fragile()
    batcher = Batcher(model, LIMITS)
    works = [work("a"), work("b", frames=7)]
    for each in works:
        batcher.submit(each)
    assert works[0].future.cancel()
    assert batcher.step() == 1
    assert model.batches == [[7]]


class Gate(Fragile):
    """Holds every batch until it is let through."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def encode(
        self, batch: Ragged, sums: NDArray[np.float64] | None = None, *, frames: bool = False
    ) -> Outputs:
        self.reached.release()
        assert self.open.acquire(timeout=60)
        return super().encode(batch, sums, frames=frames)


def test_what_comes_while_a_batch_runs_is_the_next_batch() -> None:
    model = Gate()
    batcher = Batcher(model, LIMITS)
    batcher.start()
    works = [work(i, frames=5 + i) for i in range(4)]
    batcher.submit(works[0])
    assert model.reached.acquire(timeout=60)
    for each in works[1:]:
        batcher.submit(each)
    batcher.cancel(0)  # its batch runs already: it runs to its end
    model.open.release(2)
    for each in works:
        assert np.isfinite(each.future.result(60).scores).all()
    assert model.batches == [[5], [6, 7, 8]]
    batcher.close()


def test_who_finds_the_queue_full_waits_or_is_told() -> None:
    model = Gate()
    batcher = Batcher(model, LIMITS, max_waiting=1)
    batcher.start()
    first, second, third = (work(name) for name in "abc")
    batcher.submit(first)
    assert model.reached.acquire(timeout=60)
    batcher.submit(second)
    with pytest.raises(BackendError, match="wait for the GPU already"):
        batcher.submit(work("d"), wait=False)
    waiting = threading.Thread(target=batcher.submit, args=(third,))
    waiting.start()
    assert waiting.is_alive()
    model.open.release(3)
    for each in (first, second, third):
        each.future.result(60)
    waiting.join(60)
    batcher.close()


def test_closing_fails_what_waits_and_refuses_what_comes() -> None:
    batcher = Batcher(numpy_model(), LIMITS)
    waiting = work("a")
    batcher.submit(waiting)
    batcher.close()
    with pytest.raises(CancelledError):
        waiting.future.result(0)
    with pytest.raises(BackendError, match="closed"):
        batcher.submit(work("b"))


def test_the_last_user_may_be_collected_in_the_middle_of_a_batch() -> None:
    """Then the batcher is closed from its own thread, which must not wait for itself."""
    model = Fragile()
    batcher = Batcher(model, LIMITS)
    closed = threading.Event()
    encode, model_close = model.encode, model.close

    def closing(*arguments: Any, **named: Any) -> Outputs:
        batcher.close()
        return encode(*arguments, **named)

    def close() -> None:
        model_close()
        closed.set()

    model.encode, model.close = closing, close  # type: ignore[method-assign]
    batcher.start()
    assert np.isfinite(batcher.submit(work("a")).result(60).scores).all()
    assert closed.wait(60)
