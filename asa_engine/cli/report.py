"""`asa-engine report`: results as pages for a class and its learners."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from asa_engine.cli.options import add_command

DETAILS = """\
Takes results that 'asa-engine assess -o results.jsonl' wrote. Pages hold everything they show: no
scripts, nothing is fetched; they print well. What the manifest says of a recording (learner,
session, date) is what the pages are divided by.

With a name that ends in .html, one page holds the class and every learner, each on a sheet of its
own. Any other name is a folder: class.html, and a page for each learner that shows nobody else.

examples:
  asa-engine report results.jsonl -o report.html
  asa-engine report results.jsonl -o reports --title "Year 7, spring"
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "report", run, "Make pages of results for teachers and learners.", DETAILS
    )
    parser.add_argument("results", type=Path, metavar="RESULTS", help="JSON Lines")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE_OR_DIR", help="where pages go"
    )
    parser.add_argument("--title", default="Class report", metavar="T", help="heading of the class")


def run(args: argparse.Namespace) -> int:
    """Write the pages."""
    from asa_engine.batch.rows import read_rows
    from asa_engine.files import atomic_write
    from asa_engine.report import class_page, gather, learner_page, whole_page

    group = gather(read_rows(args.results))
    if args.output.suffix.lower() in (".html", ".htm"):
        atomic_write(args.output, _bytes(whole_page(group, args.title)))
        return 0
    links = {
        learner.name: f"learner-{index:03}{_slug(learner.name)}.html"
        for index, learner in enumerate(group.named, 1)
    }
    for learner in group.named:
        atomic_write(args.output / links[learner.name], _bytes(learner_page(group, learner)))
    atomic_write(args.output / "class.html", _bytes(class_page(group, args.title, links)))
    return 0


def _bytes(page: str) -> bytes:
    """Return UTF-8; bytes of a file's name that are none are escaped."""
    return page.encode("utf-8", "backslashreplace")


def _slug(name: str) -> str:
    """Return a name as part of a file's name: letters of any script, digits and hyphens."""
    plain = re.sub(r"[^\w]+", "-", name.casefold()).strip("-")[:40]
    return f"-{plain}" if plain else ""
