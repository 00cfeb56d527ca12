"""`asa-engine graders`: which graders this engine has."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from asa_engine.cli.options import add_command, add_json_option


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "graders", run, "List the graders and what they do.")
    add_json_option(parser, "the list")


def run(args: argparse.Namespace) -> int:
    """Print every grader."""
    from asa_engine.graders import grader_entries

    graders, broken = grader_entries()
    entries = list(graders.values())
    for reason in broken.values():
        print(f"asa-engine: {reason}", file=sys.stderr)
    if args.json:
        rows = [
            {
                "name": entry.name,
                "summary": entry.summary,
                "exact_when": entry.exact_when,
                "uses": list(entry.uses),
                "requires": list(entry.requires),
                "extra": entry.extra,
            }
            for entry in entries
        ]
        print(json.dumps(rows))
        return 0
    for entry in entries:
        print(f"{entry.name}\n  {entry.summary}\n  exact: {entry.exact_when}")
        if entry.uses:
            shown = [f"--{n} (required)" if n in entry.requires else f"--{n}" for n in entry.uses]
            print(f"  takes: {', '.join(shown)}")
        if entry.extra:
            print(f"  needs: pip install 'asa-engine[{entry.extra}]'")
    return 0
