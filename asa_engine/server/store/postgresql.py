"""A store in PostgreSQL, which servers on many machines may share."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

from sqlalchemy import create_engine, func, inspect, select, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError

from asa_engine.errors import ArtifactError
from asa_engine.server.store.base import StoreError
from asa_engine.server.store.sealing import Seal
from asa_engine.server.store.sql import SqlStore
from asa_engine.server.store.tables import audio, streams

__all__ = ["PostgresqlStore"]

# What an URL may set otherwise. A server that is gone, or hangs, is a failure within seconds.
_DEFAULTS: Final[dict[str, Any]] = {
    "connect_timeout": 3,
    "tcp_user_timeout": 5000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "application_name": "asa-engine",
    "options": "-c statement_timeout=5s -c lock_timeout=3s "
    "-c idle_in_transaction_session_timeout=10s",
}
_PREPARING: Final = 0x6173615F  # "asa_": servers that start at once make the tables in turn
_STUCK: Final = frozenset(("55P03", "57014"))  # lock not available, query cancelled


class PostgresqlStore(SqlStore):
    """Tables `asa_...` in the schema that is first on the user's search path.

    How much is kept is looked at now and then, so it may grow a little beyond its bound.

    Args:
        url: Of SQLAlchemy's form, with the driver psycopg.
        shown: It, without what is secret.
        max_bytes: How large it may grow.
        seal: Encrypts; `None` keeps things as they are.
        make: Make the tables where there are none.

    Raises:
        ArtifactError: The driver is not installed.
        UsageError: It cannot be reached, is of another version, or encrypted by another key.
    """

    def __init__(
        self, url: URL, shown: str, max_bytes: int, seal: Seal | None = None, *, make: bool = True
    ) -> None:
        if find_spec("psycopg") is None:
            raise ArtifactError(
                "psycopg is not installed", hint="pip install 'asa-engine[postgresql]'"
            )
        self._max_bytes = max_bytes
        self._is_full = False
        settings = {name: value for name, value in _DEFAULTS.items() if name not in url.query}
        engine = create_engine(
            url,
            connect_args=settings,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            pool_size=1,
            max_overflow=0,
        )
        super().__init__(engine, shown, seal, make=make)

    def _hint(self) -> str:
        return "check that PostgreSQL runs there, and the user, password and database"

    def _is_down(self, failure: DBAPIError) -> bool:
        return getattr(failure.orig, "sqlstate", None) in {*_STUCK, None}

    def _prepare(self, connection: Connection) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(_PREPARING)))
        is_new = not inspect(connection).has_table(audio.name)
        super()._prepare(connection)
        if is_new:  # sound and ciphertext do not get smaller by what PostgreSQL would try
            for table, column in ((audio, "piece"), (streams, "terms"), (streams, "result")):
                asked = f"ALTER TABLE {table.name} ALTER COLUMN {column} SET STORAGE EXTERNAL"
                connection.execute(text(asked))
        self._look_at_size()

    def _check_room(self) -> None:
        if self._is_full:
            raise StoreError("the store is full")

    def tick(self, passed_s: float, keep_s: float, unfinished_s: float) -> None:
        super().tick(passed_s, keep_s, unfinished_s)
        self._look_at_size()

    def _look_at_size(self) -> None:
        """Look at the tables' size on disk; where that is too large, at what is kept in them.

        Room of what was deleted is used again, but stays in the first.
        """
        on_disk = sum(
            self._connection.execute(select(func.pg_total_relation_size(table.name))).scalar_one()
            for table in (audio, streams)
        )
        self._is_full = on_disk > self._max_bytes and self._kept_bytes() > self._max_bytes

    def _kept_bytes(self) -> int:
        pieces = select(func.coalesce(func.sum(func.octet_length(audio.c.piece)), 0))
        results = select(func.coalesce(func.sum(func.octet_length(streams.c.result)), 0))
        return sum(int(self._connection.execute(each).scalar_one()) for each in (pieces, results))
