"""Where a store is: a file, or an address that names a database."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asa_engine.errors import ArtifactError, UsageError
from asa_engine.server.store.base import Store
from asa_engine.server.store.sealing import Seal

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

__all__ = ["open_store"]

_HINT: Final = "give a file, or postgresql://user@host/database"
_POSTGRESQL: Final = ("postgresql", "postgres", "postgresql+psycopg")


def open_store(
    place: str | Path, max_bytes: int, key: bytes | None = None, *, make: bool = True
) -> Store:
    """Open a store.

    Args:
        place: A path, `sqlite:///PATH` or `postgresql://...`.
        max_bytes: How large it may grow.
        key: 32 bytes that what is kept is encrypted by; `None` keeps it as it is.
        make: Make it where there is none.

    Raises:
        ArtifactError: What it needs is not installed.
        UsageError: It cannot be used. No message shows a password.
    """
    if find_spec("sqlalchemy") is None:
        raise ArtifactError("sqlalchemy is not installed", hint="pip install 'asa-engine[server]'")
    seal = None if key is None else Seal(key)
    if isinstance(place, Path) or "://" not in place:
        return _sqlite(Path(place), max_bytes, seal, make)
    url = _url(place)
    if url.drivername == "sqlite" and url.database and not url.query:
        return _sqlite(Path(url.database), max_bytes, seal, make)
    if url.drivername not in _POSTGRESQL:
        raise UsageError(f"a store cannot be in {url.drivername!r}", hint=_HINT)
    from asa_engine.server.store.postgresql import PostgresqlStore

    shown = (
        f"postgresql://{url.host or ''}{f':{url.port}' if url.port else ''}/{url.database or ''}"
    )
    driven = url.set(drivername="postgresql+psycopg")
    return PostgresqlStore(driven, shown, max_bytes, seal, make=make)


def _sqlite(path: Path, max_bytes: int, seal: Seal | None, make: bool) -> Store:
    from asa_engine.server.store.sqlite import SqliteStore

    return SqliteStore(path, max_bytes, seal, make=make)


def _url(place: str) -> URL:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(place)
    except (ArgumentError, ValueError):
        raise UsageError("the store's address cannot be read", hint=_HINT) from None
