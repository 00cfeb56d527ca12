"""Recordings to rows on a Ray cluster, always in their order."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

from asa_engine.batch.processes import Team
from asa_engine.batch.recordings import Recording
from asa_engine.batch.rows import Row
from asa_engine.cluster.node import in_cluster
from asa_engine.errors import BackendError

__all__ = ["score_on_ray"]

# What is done anew where a machine dies; and what Ray keeps account of.
_A_BLOCK: Final = 8
_MOST_BLOCKS: Final = 2000


def score_on_ray(
    recordings: Sequence[Recording],
    options: Mapping[str, Any],
    uses: tuple[str, ...],
    *,
    workers: int | None,
    gpus: float,
) -> Generator[Row, None, None]:
    """Yield the row of each recording, in order, scored on the machines of a Ray cluster.

    Each worker has a process of `asa_engine.batch` for its engine, so a recording that no process
    survives is a row with an error, as on one machine; a worker whose machine is lost is Ray's to
    replace, and what it had not handed on is scored anew.

    Args:
        recordings: At the same paths on every machine.
        options: Arguments of `asa_engine.engine.load`, JSON values.
        uses: `Engine.uses`.
        workers: Number of workers; `None` for as many as the cluster's CPUs hold.
        gpus: NVIDIA GPUs of each.

    Raises:
        AsaError: Ray does not start, or an engine cannot be loaded.
    """
    with in_cluster() as cpus:
        import ray
        from ray.data import ActorPoolStrategy, DataContext
        from ray.exceptions import RayError

        context = DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        items = [_item(number, each, uses) for number, each in enumerate(recordings)]
        threads = options["threads"]
        most = workers or max(1, cpus // threads)
        asked = ray.data.from_items(items, override_num_blocks=_blocks(len(items)))
        scored = asked.map(
            Scorer,
            fn_constructor_kwargs={"options": dict(options), "folder": os.getcwd()},
            compute=ActorPoolStrategy(min_size=workers or 1, max_size=most),
            num_cpus=threads,
            num_gpus=gpus or None,
        )
        try:
            for number, told in enumerate(scored.iter_rows()):
                if told["number"] != number:
                    raise BackendError("Ray gave rows in another order than it was asked for")
                yield Row(recordings[number], json.loads(told["outcome"]))
        except RayError as failure:
            raise BackendError(
                f"Ray could not go on: {str(failure).strip().splitlines()[-1]}",
                hint="--resume goes on with what is there",
            ) from None


class Scorer:
    """One worker: a process with an engine, on the machine where Ray placed it.

    Args:
        options: Arguments of `asa_engine.engine.load`.
        folder: Where the command runs, so that relative paths are the same.
    """

    def __init__(self, options: Mapping[str, Any], folder: str) -> None:
        with contextlib.suppress(OSError):  # elsewhere only absolute paths are found
            os.chdir(folder)
        self._team = Team(options, 1)
        self._team.start()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Score one recording."""
        outcome = self._team.score(item["name"], item["audio"], json.loads(item["texts"]))
        return {"number": item["number"], "outcome": json.dumps(outcome)}


def _item(number: int, recording: Recording, uses: tuple[str, ...]) -> dict[str, Any]:
    texts = json.dumps(recording.texts(uses))
    return {
        "number": number,
        "name": recording.name,
        "audio": str(recording.audio),
        "texts": texts,
    }


def _blocks(count: int) -> int:
    return max(1, min(_MOST_BLOCKS, count // _A_BLOCK))
