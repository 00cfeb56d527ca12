"""The tables of a store, the same in every database."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

__all__ = ["VERSION", "audio", "everything", "store", "streams"]

VERSION: Final = 2

everything: Final = MetaData()

# One row: the version, the count of seconds that ages are told by, and what shows the key.
store: Final = Table(
    "asa_store",
    everything,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("clock_s", Float(53), nullable=False),
    Column("sealed", LargeBinary),
)

# Size, date and result come with the score. The index is for what deletes the old.
streams: Final = Table(
    "asa_streams",
    everything,
    Column("id", String(64), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("terms", LargeBinary, nullable=False),
    Column("holder", BigInteger, nullable=False),
    Column("seen_s", Float(53), nullable=False, index=True),
    Column("size", BigInteger),
    Column("finished", String(32)),
    Column("result", LargeBinary),
)

# Pieces follow one another: each begins where the one before it stops.
audio: Final = Table(
    "asa_audio",
    everything,
    Column("id", String(64), primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("stop", BigInteger, nullable=False),
    Column("seen_s", Float(53), nullable=False),
    Column("piece", LargeBinary, nullable=False),
)
