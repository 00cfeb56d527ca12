"""A store on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from asa_engine.server.store.base import Store, StoreError

__all__ = ["Keeper"]

EXPIRE_EVERY_S: Final = 5.0
STOP_S: Final = 5.0
# A stream that is not finished is kept for so long at least: who speaks slowly is heard rarely.
LEAST_UNFINISHED_S: Final = 120.0

T = TypeVar("T")

_Work = tuple[Callable[[Store], Any], "Future[Any]"]


class Keeper:
    """A store on its own thread. What waits is done in one transaction, in the order it was asked.

    Args:
        make: Makes the store, on that thread.
        keep_s: How long a stream is kept after it was last heard of, or scored.
        on_error: Told of every failure, once whatever failed with it.
    """

    def __init__(
        self,
        make: Callable[[], Store],
        keep_s: float,
        on_error: Callable[[StoreError], None] = lambda error: None,
    ) -> None:
        self._make = make
        self._keep_s = keep_s
        self._on_error = on_error
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._ready: Future[None] = Future()
        # A daemon: a disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="asa-store", daemon=True)

    def start(self) -> None:
        """Start, and wait until the store is open.

        Raises:
            UsageError: It cannot be.
        """
        self._thread.start()
        self._ready.result()

    def stop(self) -> None:
        """Do what waits, and end."""
        self._work.put(None)
        self._thread.join(STOP_S)

    def later(self, call: Callable[[Store], T]) -> Future[T]:
        """Have something done; the future has its result once that is durable."""
        done: Future[T] = Future()
        self._work.put((call, done))
        return done

    async def do(self, call: Callable[[Store], T], within_s: float) -> T:
        """Have something done, and wait until it is durable.

        Raises:
            StoreError: It failed, or took too long.
        """
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.wrap_future(self.later(call))
        except TimeoutError:
            raise StoreError(f"the store took longer than {within_s:g} s") from None

    def _run(self) -> None:
        try:
            store = self._make()
        except BaseException as failure:
            return self._ready.set_exception(failure)
        self._ready.set_result(None)
        last_s = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                work = [self._work.get(timeout=EXPIRE_EVERY_S)]
                with contextlib.suppress(queue.Empty):
                    while True:
                        work.append(self._work.get_nowait())
                self._do_all(store, [each for each in work if each is not None])
                if None in work:
                    return store.close()
            if (passed_s := time.monotonic() - last_s) >= EXPIRE_EVERY_S:
                last_s += passed_s
                # Asleep is not old: a machine that wakes up still has its streams.
                older_s = min(passed_s, 2 * EXPIRE_EVERY_S)
                self._do_all(store, [(self._ticking(older_s), Future())])

    def _ticking(self, seconds: float) -> Callable[[Store], None]:
        unfinished_s = max(self._keep_s, LEAST_UNFINISHED_S)
        return lambda store: store.tick(seconds, self._keep_s, unfinished_s)

    def _do_all(self, store: Store, work: list[_Work]) -> None:
        """Do it in one transaction; where that fails, each in one of its own."""
        work = [each for each in work if not each[1].cancelled()]
        if len(work) > 1:
            error = self._do(store, work)
            if error is None:
                return
            if error.is_down:
                return self._fail(work, error)
        for number, each in enumerate(work):
            error = self._do(store, [each])
            if error is not None:
                if error.is_down:  # the others would wait as long for nothing
                    return self._fail(work[number:], error)
                self._fail([each], error)

    def _do(self, store: Store, batch: list[_Work]) -> StoreError | None:
        """Do it in one transaction; return why it failed, if it did."""
        try:
            with store.transaction():
                results = [call(store) for call, _ in batch]
        except Exception as failure:
            if isinstance(failure, StoreError):
                return failure
            return StoreError(f"{type(failure).__name__} in the store")
        for (_, done), result in zip(batch, results, strict=True):
            if done.set_running_or_notify_cancel():
                done.set_result(result)
        return None

    def _fail(self, batch: list[_Work], error: StoreError) -> None:
        if batch:
            self._on_error(error)
        for _, done in batch:
            if done.set_running_or_notify_cancel():
                done.set_exception(error)
