"""Where rows go beside a journal: a table, or a file for each recording."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from asa_engine.batch.recordings import Recording
from asa_engine.batch.rows import Row
from asa_engine.errors import UsageError
from asa_engine.files import atomic_write
from asa_engine.formats import FORMATS
from asa_engine.formats.parquet import ParquetTable
from asa_engine.formats.table import HEADER, Line, failed_line, table_lines, written

__all__ = ["FILE_KINDS", "Output", "Statements", "convert", "kind_of", "open_output", "text_of"]

FILE_KINDS: Final = {".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".parquet": "parquet"}
"""End of a file's name -> form; all rows go into the one file."""


class Output(Protocol):
    """Takes rows in the order of their recordings."""

    def write(self, row: Row) -> None:
        """Take the next row."""

    def close(self) -> None:
        """Make what was written appear under its name."""

    def drop(self) -> None:
        """Leave nothing half-written behind."""


def kind_of(path: Path, form: str | None) -> tuple[str, bool]:
    """Return the form that an output is to have, and whether it is one file.

    Args:
        path: A file, by the end of its name, or a folder.
        form: What was asked for, if anything.

    Raises:
        UsageError: It has no form, or another than its name says.
    """
    named = None if os.path.isdir(path) else FILE_KINDS.get(path.suffix.lower())
    if named is None:
        if form is None:
            raise UsageError(
                f"--output {path} needs a form",
                hint=f"add --format {'|'.join(FORMATS)}, or name a file that ends in "
                f"{', '.join(FILE_KINDS)}",
            )
        return form, False
    if form not in (None, named):
        raise UsageError(
            f"{path} is to be {named}, and --format is {form}", hint="leave out one of them"
        )
    return named, True


def open_output(
    path: Path,
    form: str,
    recordings: Sequence[Recording],
    *,
    one_file: bool,
    replace: bool = False,
) -> Output:
    """Return where rows go.

    Args:
        path: A file that is not there yet, or a folder.
        form: Of `kind_of`.
        recordings: All that rows will come of.
        one_file: Of `kind_of`.
        replace: Whether a file may be there.

    Raises:
        UsageError: It cannot be written, is there already, or recordings would share a file.
    """
    if not one_file:
        return _Folder(path, form, recordings)
    if not replace:
        _check_new(path)
    return _ParquetFile(path) if form == "parquet" else _TextFile(path, form)


def _check_new(path: Path) -> None:
    if os.path.exists(path):
        raise UsageError(f"{path} exists already", hint="choose another --output, or remove it")


def convert(rows: Iterable[Row], output: Output) -> None:
    """Write rows that are there into another output.

    Raises:
        AsaError: As the rows' iterator and the output.
    """
    try:
        for row in rows:
            output.write(row)
    except BaseException:
        output.drop()
        raise
    output.close()


def text_of(row: Row, form: str) -> str:
    """Return a row in one of `FORMATS`; one without an assessment may have none."""
    if form == "json":
        return row.to_line()
    if form == "csv":
        return written(_lines(row))
    result = row.result
    return "" if result is None else FORMATS[form].write(result, row.recording.name)


def _bytes(text: str) -> bytes:
    """Return UTF-8; bytes of a file's name that are none are escaped."""
    return text.encode("utf-8", "backslashreplace")


def _lines(row: Row) -> Iterator[Line]:
    known = row.recording
    head = {"audio": known.name, "learner": known.learner, "session": known.session}
    head = {name: value for name, value in {**head, "date": known.date}.items() if value}
    if (error := row.error) is not None:
        yield failed_line(str(error), head)
    elif (result := row.result) is not None:
        yield from table_lines(result, head)


class _OneFile(ABC):
    """A file that has its name once all rows are in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as failure:
            raise self._unwritable(failure) from None

    @abstractmethod
    def _open(self) -> Any:
        """Return the temporary file, opened."""

    @abstractmethod
    def _put(self, row: Row) -> None:
        """Append the row's lines, errors of the system as they are."""

    def write(self, row: Row) -> None:
        """Append the row's lines."""
        try:
            self._put(row)
        except OSError as failure:
            raise self._unwritable(failure) from None

    def close(self) -> None:
        """Sync and rename."""
        try:
            self._file.close()
            with self._work.open("rb") as file:
                os.fsync(file.fileno())
            self._work.replace(self._path)
        except OSError as failure:
            raise self._unwritable(failure) from None
        finally:
            self._work.unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove the temporary file."""
        try:
            self._file.close()
        except OSError:
            pass  # it is to go anyway
        self._work.unlink(missing_ok=True)

    def _unwritable(self, failure: OSError) -> UsageError:
        return UsageError(
            f"{self._path} cannot be written: {failure.strerror or failure}",
            hint="choose another --output",
        )


class _TextFile(_OneFile):
    def __init__(self, path: Path, form: str) -> None:
        self._form = form
        super().__init__(path)

    def _open(self) -> BinaryIO:
        file = self._work.open("wb")
        file.write(HEADER.encode() if self._form == "csv" else b"")
        return file

    def _put(self, row: Row) -> None:
        self._file.write(_bytes(text_of(row, self._form)))


class _ParquetFile(_OneFile):
    def _open(self) -> ParquetTable:
        return ParquetTable(self._work)

    def _put(self, row: Row) -> None:
        self._file.write(_lines(row))


class Statements(_OneFile):
    """Statements of xAPI, as one JSON array: what a learning record store is sent at once.

    Args:
        path: The file.
        platform: As of `to_xapi`.

    Raises:
        UsageError: It is there already, or cannot be written.
    """

    def __init__(self, path: Path, platform: str) -> None:
        _check_new(path)
        self._platform = platform
        self._begun = False
        super().__init__(path)

    def _open(self) -> BinaryIO:
        return self._work.open("wb")

    def _put(self, row: Row) -> None:
        if (result := row.result) is None:
            return  # what could not be read tells nothing of a learner
        about, name = row.recording.to_dict(), row.recording.name
        from asa_engine.formats.xapi import to_xapi  # late, for what writes no statements

        statement = to_xapi(result, about, platform=self._platform, name=name)
        self._file.write(b",\n" if self._begun else b"[\n")
        self._file.write(_bytes(json.dumps(statement, ensure_ascii=False)))
        self._begun = True

    def close(self) -> None:
        """End the array."""
        self._file.write(b"\n]\n" if self._begun else b"[]\n")
        super().close()


class _Folder:
    """A file for each recording, as soon as it is scored; one of the same name is replaced."""

    def __init__(self, folder: Path, form: str, recordings: Iterable[Recording]) -> None:
        self._folder = folder
        self._form = form
        named: dict[str, Recording] = {}
        for recording in recordings:
            other = named.setdefault(recording.audio.stem, recording)
            if other != recording:
                raise UsageError(
                    "recordings of one name would overwrite each other in --output",
                    hint="score them one folder at a time",
                )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the folder {folder} cannot be made: {error.strerror}",
                hint="choose another --output",
            ) from None

    def write(self, row: Row) -> None:
        """Write the recording's file; one that failed has none."""
        if row.error is None:
            form = FORMATS[self._form]
            text = form.header + text_of(row, self._form)
            target = self._folder / (row.recording.audio.stem + form.suffix)
            atomic_write(target, _bytes(text))

    def close(self) -> None:
        """Do nothing: every file is there."""

    def drop(self) -> None:
        """Do nothing: every file is whole."""
