"""Rows of recordings as they are scored: to standard output, into files, into a journal."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asa_engine.batch.journal import Journal
from asa_engine.batch.outputs import convert, kind_of, open_output, text_of
from asa_engine.batch.recordings import Recording
from asa_engine.batch.rows import Row, read_rows
from asa_engine.cli.main import report_error
from asa_engine.cli.progress import Progress
from asa_engine.cli.streams import say
from asa_engine.cli.tables import one_line, table
from asa_engine.cli.words import Paint
from asa_engine.formats import FORMATS

if TYPE_CHECKING:
    from asa_engine.engine import Engine

__all__ = ["score_all"]

Scoring = Callable[[Sequence[Recording]], Generator[Row, None, None]]


def score_all(
    recordings: Sequence[Recording], rows: Scoring, engine: Engine, args: argparse.Namespace
) -> int:
    """Score recordings into what the command line names; return the exit code.

    Args:
        recordings: All of them.
        rows: Scores those that are left.
        engine: Whose receipt the rows of a journal must have.
        args: With `output`, `format`, `json` and `resume`.
    """
    if args.output is None:
        return _print(recordings, rows, args)
    form, one_file = kind_of(args.output, args.format)
    args.json = False  # standard output stays empty
    if one_file and form == "json":
        return _into_journal(args.output, recordings, rows, engine, args)
    if args.resume:
        path = args.output.with_name(f"{args.output.name}.jsonl")
        if not one_file:
            open_output(args.output, form, recordings, one_file=False)  # says now what would fail
        code = _into_journal(path, recordings, rows, engine, args)
        convert(
            read_rows(path),
            open_output(args.output, form, recordings, one_file=one_file, replace=True),
        )
        return code
    output = open_output(args.output, form, recordings, one_file=one_file)
    try:
        progress, codes = Progress(len(recordings)), Counter[int]()
        with contextlib.closing(rows(recordings)) as scored:
            for row in scored:
                output.write(row)
                codes[row.exit_code] += 1
                _went_on(row, progress)
        progress.clear()
    except BaseException:
        output.drop()
        raise
    output.close()
    if one_file:
        _summary(codes, args.output)
    return max(codes, default=0)


def _into_journal(
    path: Path,
    recordings: Sequence[Recording],
    rows: Scoring,
    engine: Engine,
    args: argparse.Namespace,
) -> int:
    with Journal(path, recordings, engine.receipt, resume=args.resume) as journal:
        if journal.done:
            say(f"{journal.done} of {len(recordings)} recordings are scored already")
        progress = Progress(len(recordings), done=journal.done)
        with contextlib.closing(rows(recordings[journal.done :])) as scored:
            for row in scored:
                journal.append(row)
                _went_on(row, progress)
        progress.clear()
    _summary(journal.codes, path)
    return max(journal.codes, default=0)


def _went_on(row: Row, progress: Progress) -> None:
    if (error := row.error) is not None:
        progress.clear()
        report_error(error, as_json=False)
    progress.step()


def _summary(codes: Counter[int], path: Path) -> None:
    scored, unscorable = codes[0], codes.total() - codes[0]
    left = f", {unscorable} without a score" if unscorable else ""
    say(f"{path}: {scored} scored{left}")


def _print(recordings: Sequence[Recording], rows: Scoring, args: argparse.Namespace) -> int:
    """Print every row in the form asked for, or for people."""
    width = max(len(recording.audio.name) for recording in recordings)
    if args.format is not None:
        print(FORMATS[args.format].header, end="")
    progress, code = Progress(len(recordings)), 0
    with contextlib.closing(rows(recordings)) as scored:
        for row in scored:
            code = max(code, row.exit_code)
            progress.step()
            if (error := row.error) is not None:
                progress.clear()
                report_error(error, as_json=args.json, **row.recording.to_dict())
                continue
            if sys.stdout.isatty():
                progress.clear()
            result, name = row.result, row.recording.audio.name
            assert result is not None
            if args.format is not None:
                print(text_of(row, args.format), end="", flush=True)
            elif len(recordings) == 1:
                print(table(result, name, Paint.of(sys.stdout)), flush=True)
            else:
                print(f"{name:<{width}}  {one_line(result)}", flush=True)
    progress.clear()
    return code
