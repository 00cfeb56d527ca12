"""`asa-engine kiosk`: the kiosk page on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from asa_engine.cli.options import add_command, port
from asa_engine.cli.streams import say

DETAILS = """\
Serves the page that 'make kiosk' builds, to this machine alone, until Ctrl-C. Who opens it speaks
and is scored in the browser; nothing that is said leaves the page. For other machines it takes a
web server with HTTPS, without which browsers give no microphone (docs/devices.md).

examples:
  asa-engine kiosk
  asa-engine kiosk /srv/kiosk --port 9001
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "kiosk", run, "Serve the kiosk page to this machine.", DETAILS)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("build/kiosk"),
        metavar="FOLDER",
        help="what 'make kiosk' built (default: build/kiosk)",
    )
    parser.add_argument(
        "--port", type=port, default=8771, metavar="N", help="default 8771; 0 for any that is free"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from asa_engine.server.kiosk import KioskServer

    with KioskServer(args.folder, args.port) as server:
        say(f"asa-engine: open {server.address}")
        server.serve_forever()
    return 0
