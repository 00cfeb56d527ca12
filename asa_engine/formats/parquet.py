"""The table of `asa_engine.formats.table` as a Parquet file, by pyarrow (the extra [parquet])."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from asa_engine.errors import UsageError
from asa_engine.formats.table import COLUMNS, Line

__all__ = ["ParquetTable"]

_GROUP_LINES: Final = 50_000


class ParquetTable:
    """A file that is written a group of lines at a time, in memory that its length cannot grow.

    Args:
        path: The file.

    Raises:
        UsageError: pyarrow is not installed.
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError:
            raise UsageError(
                "Parquet files need pyarrow", hint="pip install 'asa-engine[parquet]'"
            ) from None
        kinds = {str: pyarrow.string(), int: pyarrow.int32(), float: pyarrow.float64()}
        self._arrow = pyarrow
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
        self._lines: list[Line] = []
        self._writer: Any = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, lines: Iterable[Line]) -> None:
        """Append lines."""
        self._lines.extend({name: _text(value) for name, value in line.items()} for line in lines)
        if len(self._lines) >= _GROUP_LINES:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        if self._lines:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._arrow.Table.from_pylist(self._lines, schema=self._schema))
        self._lines.clear()


def _text(value: object) -> object:
    """Return a text as Unicode; bytes of a file's name that are none are escaped."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "backslashreplace").decode()
