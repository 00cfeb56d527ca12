"""A store in a database that SQLAlchemy speaks to: the statements, which are the same in each.

Audio is kept by one statement a piece, which looks whether the stream is its holder's and whether
the piece follows what is kept: other servers may take or delete it at any moment.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Float,
    LargeBinary,
    String,
    bindparam,
    delete,
    exists,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from asa_engine.errors import UsageError
from asa_engine.server.store.base import KeptResult, Saved, Store, StoreError
from asa_engine.server.store.sealing import Seal
from asa_engine.server.store.tables import VERSION, audio, everything, store, streams

__all__ = ["SqlStore", "other_version", "told"]

RESULTS_AT_ONCE: Final = 100
MAX_TOLD: Final = 300

_stream: Final = bindparam("stream", type_=String)
_holder = bindparam("holder_", type_=BigInteger)
_start = bindparam("start_", type_=BigInteger)
_kept_bytes = select(func.coalesce(func.max(audio.c.stop), 0)).where(audio.c.id == _stream)
_is_held = (streams.c.id == _stream, streams.c.holder == _holder, streams.c.result.is_(None))
# The row is locked, so that whoever takes the stream meanwhile waits, and then sees the piece.
_APPEND: Final = insert(audio).from_select(
    ["id", "start", "stop", "seen_s", "piece"],
    select(
        streams.c.id,
        _start,
        bindparam("stop_", type_=BigInteger),
        bindparam("seen_", type_=Float(53)),
        bindparam("piece_", type_=LargeBinary),
    )
    .where(*_is_held, _kept_bytes.scalar_subquery() == _start)
    .with_for_update(of=streams),
)
_HOLDS: Final = select(streams.c.id).where(*_is_held)
_LOCK: Final = update(streams).where(*_is_held).values(holder=_holder)
_ROW: Final = select(
    streams.c.owner, streams.c.terms, streams.c.size, streams.c.finished, streams.c.result
).where(streams.c.id == _stream)
_ROW_LOCKED: Final = _ROW.with_for_update()
_BEGIN: Final = insert(streams)
_FINISH: Final = (
    update(streams)
    .where(streams.c.id == _stream)
    .values(
        size=bindparam("size_", type_=BigInteger),
        seen_s=bindparam("seen_", type_=Float(53)),
        finished=bindparam("finished_", type_=String),
        result=bindparam("result_", type_=LargeBinary),
    )
)
_NO_AUDIO: Final = delete(audio).where(audio.c.id == _stream)
_PIECE: Final = select(audio.c.piece).where(audio.c.id == _stream, audio.c.start == _start)


def told(failure: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return the first line of what a database said, without the statement and its parameters.

    Args:
        failure: What was raised.
        secrets: Passwords that no message may show.
    """
    said = str(getattr(failure, "orig", None) or failure).strip()
    line = said.splitlines()[0] if said else type(failure).__name__
    for secret in secrets:
        line = line.replace(secret, "***")
    return line[:MAX_TOLD]


def other_version(shown: str, version: int) -> UsageError:
    """Return what is said of a store of another version."""
    return UsageError(
        f"{shown} is a store of version {version}; this server has version {VERSION}",
        hint="let running streams end with the old server, then give another store",
    )


class SqlStore(Store):
    """A store behind an engine of SQLAlchemy. A connection that broke is opened again.

    Args:
        engine: Of one connection.
        shown: Which database it is, without user and password.
        seal: Encrypts; `None` keeps things as they are.
        make: Make a store where there is none.

    Raises:
        UsageError: It cannot be reached, is not there, of another version, or encrypted by
            another key.
    """

    def __init__(self, engine: Engine, shown: str, seal: Seal | None, *, make: bool) -> None:
        self._engine = engine
        self._make = make
        self._shown = shown
        self._seal = seal
        self._clock_s = 0.0
        try:
            self._connection = engine.connect()
            try:
                with self._connection.begin():
                    self._prepare(self._connection)
            except BaseException:
                self.close()
                raise
        except SQLAlchemyError as failure:
            raise UsageError(
                f"{shown} cannot be used as a store: {self._said(failure)}", hint=self._hint()
            ) from None

    @abstractmethod
    def _hint(self) -> str:
        """Return what to do about a database that cannot be used."""

    @abstractmethod
    def _is_down(self, failure: DBAPIError) -> bool:
        """Tell whether other work would fail as well."""

    def _check_room(self) -> None:
        """Raise a `StoreError` where no more may be kept."""

    def _said(self, failure: BaseException) -> str:
        url = self._engine.url
        known = (url.password, url.query.get("password"), url.query.get("sslpassword"))
        return told(failure, [each for each in known if isinstance(each, str) and each])

    def _prepare(self, connection: Connection) -> None:
        if not self._make and not inspect(connection).has_table(store.name):
            raise UsageError(f"{self._shown} is no store", hint="check which one 'serve' was given")
        everything.create_all(connection)
        row = connection.execute(select(store)).one_or_none()
        if row is None:
            sealed = None if self._seal is None else self._seal.shut("", "store", b"asa")
            first = {"id": 1, "version": VERSION, "clock_s": 0.0, "sealed": sealed}
            connection.execute(insert(store).values(first))
            return
        if row.version != VERSION:
            raise other_version(self._shown, row.version)
        self._clock_s = row.clock_s
        if (row.sealed is None) != (self._seal is None):
            is_key_missing = self._seal is None
            raise UsageError(
                f"{self._shown} is {'' if is_key_missing else 'not '}encrypted",
                hint="give its key" if is_key_missing else "give no key, or another store",
            )
        if self._seal is not None:
            try:
                self._seal.open("", "store", row.sealed)
            except StoreError:
                raise UsageError(
                    f"{self._shown} was encrypted by another key",
                    hint="give that key, or another store",
                ) from None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            with self._connection.begin():
                yield
        except DBAPIError as failure:
            is_down = self._connection.invalidated or self._is_down(failure)
            raise StoreError(self._said(failure), is_down=is_down) from None
        except SQLAlchemyError as failure:
            raise StoreError(self._said(failure)) from None

    def _shut(self, stream: str, what: str, data: bytes) -> bytes:
        return data if self._seal is None else self._seal.shut(stream, what, data)

    def _opened(self, stream: str, what: str, data: bytes) -> bytes:
        return bytes(data) if self._seal is None else self._seal.open(stream, what, bytes(data))

    def _size(self, stream: str) -> int:
        return int(self._connection.execute(_kept_bytes, {"stream": stream}).scalar_one())

    def _saved(self, stream: str, row: Any) -> Saved:
        size, result = row.size, row.result
        return Saved(
            row.owner,
            self._opened(stream, "terms", row.terms).decode(),
            self._size(stream) if size is None else size,
            None if result is None else self._opened(stream, "result", result).decode(),
        )

    def find(self, stream: str) -> Saved | None:
        row = self._connection.execute(_ROW, {"stream": stream}).one_or_none()
        return None if row is None else self._saved(stream, row)

    def take(self, stream: str, owner: str, terms: str, holder: int) -> Saved:
        row = self._connection.execute(_ROW_LOCKED, {"stream": stream}).one_or_none()
        if row is None:
            self._check_room()
            values = {"id": stream, "owner": owner, "holder": holder, "seen_s": self._clock_s}
            values["terms"] = self._shut(stream, "terms", terms.encode())
            self._connection.execute(_BEGIN, values)
            return Saved(owner, terms, 0)
        saved = self._saved(stream, row)
        if (saved.owner, saved.terms) == (owner, terms) and saved.result is None:
            taken = update(streams).where(streams.c.id == stream)
            self._connection.execute(taken.values(holder=holder, seen_s=self._clock_s))
        return saved

    def append(self, stream: str, holder: int, offset: int, audio: bytes) -> int | None:
        self._check_room()
        held = {"stream": stream, "holder_": holder}
        values = {"start_": offset, "stop_": offset + len(audio), "seen_": self._clock_s}
        piece = self._shut(stream, f"audio {offset}", audio)
        done = self._connection.execute(_APPEND, {**held, **values, "piece_": piece})
        if done.rowcount == 1:
            return offset + len(audio)
        if self._connection.execute(_HOLDS, held).one_or_none() is None:
            return None
        return self._size(stream)

    def audio(self, stream: str, offset: int) -> bytes:
        asked = {"stream": stream, "start_": offset}
        piece = self._connection.execute(_PIECE, asked).scalar_one_or_none()
        return b"" if piece is None else self._opened(stream, f"audio {offset}", piece)

    def finish(self, stream: str, holder: int, result: str) -> bool:
        held = {"stream": stream, "holder_": holder}
        if self._connection.execute(_LOCK, held).rowcount != 1:
            return False
        size = self._size(stream)
        # The audio goes first: a store that is full has room for the result then.
        self._connection.execute(_NO_AUDIO, {"stream": stream})
        values = {"stream": stream, "size_": size, "seen_": self._clock_s}
        values["finished_"] = datetime.now(UTC).isoformat(timespec="seconds")
        values["result_"] = self._shut(stream, "result", result.encode())
        self._connection.execute(_FINISH, values)
        return True

    def delete(self, stream: str) -> None:
        # The stream goes first: an append elsewhere that has its row is waited for.
        self._connection.execute(delete(streams).where(streams.c.id == stream))
        self._connection.execute(_NO_AUDIO, {"stream": stream})

    def tick(self, passed_s: float, keep_s: float, unfinished_s: float) -> None:
        mine_s = self._clock_s + passed_s
        on = update(store).where(store.c.clock_s < mine_s).values(clock_s=mine_s)
        self._connection.execute(on)
        self._clock_s = now_s = self._connection.execute(select(store.c.clock_s)).scalar_one()
        heard = audio.c.seen_s >= now_s - unfinished_s
        unheard = ~exists().where(audio.c.id == streams.c.id, heard)
        for old in (
            (streams.c.result.is_not(None), streams.c.seen_s < now_s - keep_s),
            (streams.c.result.is_(None), streams.c.seen_s < now_s - unfinished_s, unheard),
        ):
            gone = delete(streams).where(*old).returning(streams.c.id)
            for name in self._connection.execute(gone).scalars().all():
                self._connection.execute(_NO_AUDIO, {"stream": name})

    def results(self) -> Iterator[KeptResult]:
        with self.transaction():
            asked = select(streams.c.id).where(streams.c.result.is_not(None))
            ordered = asked.order_by(streams.c.finished, streams.c.id)
            names = self._connection.execute(ordered).scalars().all()
        for begin in range(0, len(names), RESULTS_AT_ONCE):
            some = names[begin : begin + RESULTS_AT_ONCE]
            with self.transaction():
                asked_rows = select(streams).where(streams.c.id.in_(some))
                rows = {row.id: row for row in self._connection.execute(asked_rows)}
            for name in some:
                if (row := rows.get(name)) is not None:  # deleted meanwhile
                    yield KeptResult(name, self._saved(name, row), row.finished)

    def close(self) -> None:
        with contextlib.suppress(SQLAlchemyError):
            self._connection.close()
        self._engine.dispose()
