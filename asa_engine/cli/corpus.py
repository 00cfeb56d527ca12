"""`asa-engine corpus`: turn a published corpus into a manifest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from asa_engine.cli.options import add_command, add_json_option
from asa_engine.corpora import LAYOUTS

DETAILS = """\
Layouts are described in docs/corpora.md. Nothing is copied: the manifest must lie in the corpus's
folder or above it. What has no recording or no score is left out and counted.

examples:
  asa-engine corpus speechocean762 speechocean762 --split train -o speechocean762/train.jsonl
  asa-engine corpus speak-improve sandi -o sandi/dev.jsonl --split dev --sessions sandi/dev-s.jsonl
"""


def register(commands: Any) -> None:
    """Add the command."""
    help = "Turn a published corpus into a manifest."
    parser = add_command(commands, "corpus", run, help, DETAILS)
    parser.add_argument("layout", choices=list(LAYOUTS), help="how the corpus is laid out")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the corpus's top folder")
    parser.add_argument("--split", default="", metavar="NAME", help="which part (default: all)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MANIFEST", help="the manifest"
    )
    parser.add_argument("--sessions", type=Path, metavar="FILE", help="write sessions, too")
    add_json_option(parser, "the counts")


def run(args: argparse.Namespace) -> int:
    """Read the corpus and write what was asked for."""
    from asa_engine.corpora import read_corpus, write_manifests

    corpus = read_corpus(args.layout, args.folder, args.split)
    write_manifests(corpus, args.output, args.sessions)
    counts = {
        "recordings": len(corpus.recordings),
        "sessions": len(corpus.sessions),
        "left_out": len(corpus.left_out),
    }
    if args.json:
        print(json.dumps({**counts, "why": corpus.left_out[:100]}))
        return 0
    print(f"{args.output}: " + ", ".join(f"{n} {name}" for name, n in counts.items() if n))
    for line in corpus.left_out[:5]:
        print(f"  left out: {line}")
    return 0
