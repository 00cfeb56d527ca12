"""Kept results as rows, which go wherever the rows of `asa-engine assess` go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from asa_engine.batch.recordings import Recording
from asa_engine.batch.rows import Row
from asa_engine.errors import ArtifactError, UsageError
from asa_engine.server.store.base import KeptResult, StoreError
from asa_engine.server.store.places import open_store

__all__ = ["kept_rows"]

_NO_BOUND: Final = 2**40  # nothing is added


def kept_rows(place: str | Path, key: bytes | None = None) -> Iterator[Row]:
    """Yield the rows of what is kept, in the order it was scored.

    A stream's id is its recording's name; the texts are those it was begun with, the date is when
    it was scored. Servers may use the store meanwhile.

    Args:
        place: As of `open_store`.
        key: Likewise.

    Raises:
        ArtifactError: The store fails, or what it needs is not installed.
        UsageError: It is no store, cannot be opened, or keeps no results.
    """
    store = open_store(place, _NO_BOUND, key, make=False)
    empty = True
    try:
        for each in store.results():
            empty = False
            yield _row(each)
    except StoreError as failure:
        raise ArtifactError(
            f"the store cannot be read: {failure}", hint="try again in a few seconds"
        ) from None
    finally:
        store.close()
    if empty:
        raise UsageError("the store keeps no results", hint="streams with an id have some")


def _row(kept: KeptResult) -> Row:
    terms = json.loads(kept.saved.terms)
    texts = {name: terms[name] for name in ("text", "prompt") if terms.get(name)}
    head = {"audio": kept.stream, "id": kept.stream, "date": kept.finished, **texts}
    assert kept.saved.result is not None
    return Row(Recording.from_dict(head), json.loads(kept.saved.result)["assessment"])
