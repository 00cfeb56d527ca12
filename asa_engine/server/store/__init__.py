"""What a server keeps of streams that have an id, so that they outlive connections and processes.

It is the audio that came, until the stream is scored, and then its assessment. A stream goes on by
scoring again what is kept: scores depend on the audio alone, so they are the same to the last bit,
whatever grader it is and wherever it goes on. `Store` is what a database must do, `SqlStore` does
it by SQLAlchemy in SQLite and PostgreSQL, `Keeper` runs a store on a thread of its own. This
module needs no SQLAlchemy; `asa_engine.server.store.places` opens stores.
"""

from __future__ import annotations

from asa_engine.server.store.base import KeptResult, Saved, Store, StoreError
from asa_engine.server.store.keeper import Keeper

__all__ = ["Keeper", "KeptResult", "Saved", "Store", "StoreError"]
