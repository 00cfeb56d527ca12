"""A store in one SQLite file, which servers on one machine may share."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError

from asa_engine.errors import UsageError
from asa_engine.server.store.sealing import Seal
from asa_engine.server.store.sql import SqlStore, other_version, told

__all__ = ["SqliteStore"]

BUSY_S: Final = 2.0
# Pieces of audio are large: with larger pages they cost a third less than with the usual 4 KiB.
PAGE_BYTES: Final = 16_384
# How long the log may grow before it is carried over: what is scored and deleted by then is carried
# over once, and not as audio and again as zeros.
CHECKPOINT_BYTES: Final = 16 * 2**20
_DOWN: Final = frozenset(
    (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
)


class SqliteStore(SqlStore):
    """One file in WAL mode, readable by its owner alone; what is deleted is overwritten.

    Args:
        path: The file; made where there is none.
        max_bytes: How large it may grow.
        seal: Encrypts; `None` keeps things as they are.
        make: Make a file where there is none.

    Raises:
        UsageError: It cannot be opened, or is of another version, or encrypted by another key.
    """

    def __init__(
        self, path: Path, max_bytes: int, seal: Seal | None = None, *, make: bool = True
    ) -> None:
        try:
            if make:
                path.touch(mode=0o600)
            else:
                path.stat()
        except OSError as failure:
            raise UsageError(
                f"{path} cannot be used as a store: {told(failure)}", hint=self._hint()
            ) from None
        url = URL.create("sqlite", database=str(path))
        engine = create_engine(url, connect_args={"timeout": BUSY_S}, hide_parameters=True)
        event.listen(engine, "connect", _opening(path, max_bytes))
        event.listen(engine, "begin", _beginning)
        super().__init__(engine, str(path), seal, make=make)

    def _hint(self) -> str:
        return "give another file"

    def _is_down(self, failure: DBAPIError) -> bool:
        return getattr(failure.orig, "sqlite_errorcode", 0) & 0xFF in _DOWN


def _opening(path: Path, max_bytes: int) -> Callable[[sqlite3.Connection, object], None]:
    def opened(base: sqlite3.Connection, record: object) -> None:
        try:
            _check(base, path)
            _set(base, max_bytes)
        except BaseException:
            base.close()
            raise

    return opened


def _check(base: sqlite3.Connection, path: Path) -> None:
    """Refuse what another program made, and stores before version 2, and leave them as they are."""
    (version,) = base.execute("PRAGMA user_version").fetchone()
    names = {name for (name,) in base.execute("SELECT name FROM sqlite_master")}
    if version or (names and "asa_store" not in names):
        raise other_version(str(path), version)


def _set(base: sqlite3.Connection, max_bytes: int) -> None:
    base.isolation_level = None  # transactions begin where `_beginning` says
    base.execute(f"PRAGMA page_size={PAGE_BYTES}")  # of a file that is still empty
    for setting in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"):
        base.execute(f"PRAGMA {setting}")
    (page,) = base.execute("PRAGMA page_size").fetchone()
    base.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_BYTES // page}")
    base.execute(f"PRAGMA max_page_count={max(64, max_bytes // page)}")


def _beginning(connection: Connection) -> None:
    base = connection.connection.driver_connection
    assert base is not None
    base.execute("BEGIN IMMEDIATE")
