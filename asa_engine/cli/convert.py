"""`asa-engine convert`: results that are there, in another form."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asa_engine.cli.options import FORMAT_NAMES, STORE, STORE_KEY, add_command
from asa_engine.errors import UsageError

if TYPE_CHECKING:
    from asa_engine.batch.rows import Row

DETAILS = """\
Takes results that 'asa-engine assess --json' printed or wrote with -o results.jsonl, or those of
streams that 'asa-engine serve --store' keeps, and scores nothing anew. xapi is one JSON array of
statements for a learning record store; --platform says on which site the learners have their
accounts. Nothing is sent anywhere.

examples:
  asa-engine convert results.jsonl -o scores.csv
  asa-engine convert results.jsonl -o scores.parquet
  asa-engine convert --store streams.db -o kept.jsonl
  asa-engine convert results.jsonl --format textgrid -o grids
  asa-engine convert results.jsonl --format xapi --platform https://school.example -o xapi.json
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "convert", run, "Write results in another form.", DETAILS)
    parser.add_argument("results", type=Path, nargs="?", metavar="RESULTS", help="JSON Lines")
    parser.add_argument(
        "--store",
        metavar="URL",
        help=f"results that this store of 'serve' keeps, in place of RESULTS (default: ${STORE})",
    )
    parser.add_argument(
        "--store-key", type=Path, metavar="FILE", help=f"the store's key (default: ${STORE_KEY})"
    )
    parser.add_argument("--format", choices=(*FORMAT_NAMES, "xapi"), help="xapi, or a folder's")
    parser.add_argument("--platform", metavar="URL", help="of the learners' accounts, for xapi")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE_OR_DIR",
        help="one file (.csv, .parquet, .jsonl), or a folder that gets one of --format for each "
        "recording",
    )


def run(args: argparse.Namespace) -> int:
    """Write every row."""
    from asa_engine.batch.outputs import Statements, convert, kind_of, open_output

    rows = _rows(args)
    if (args.format == "xapi") != (args.platform is not None):
        raise UsageError(
            "--format xapi and --platform go together", hint="give both, or none of them"
        )
    if args.format == "xapi":
        convert(rows(), Statements(args.output, args.platform))
        return 0
    form, one_file = kind_of(args.output, args.format)
    recordings = [] if one_file else [row.recording for row in rows()]
    output = open_output(args.output, form, recordings, one_file=one_file)
    convert(rows(), output)
    return 0


def _rows(args: argparse.Namespace) -> Callable[[], Iterator[Row]]:
    """Return what yields the rows, from their beginning each time."""
    place = args.store or ("" if args.results else os.environ.get(STORE, ""))
    if bool(place) == bool(args.results):
        raise UsageError("one source of results is needed", hint="give RESULTS, or --store")
    if args.results:
        from asa_engine.batch.rows import read_rows

        return partial(read_rows, args.results)
    from asa_engine.server.store.rows import kept_rows
    from asa_engine.server.store.sealing import read_key

    return partial(kept_rows, place, read_key(args.store_key, os.environ.get(STORE_KEY, "")))
