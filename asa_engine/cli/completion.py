"""`asa-engine completion`: the script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
from typing import Any

from asa_engine.cli.options import add_command

DETAILS = """\
  bash: asa-engine completion bash > ~/.local/share/bash-completion/completions/asa-engine
  zsh:  asa-engine completion zsh  > a file named _asa-engine on your $fpath
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "completion", run, "Print the completion script of a shell.", DETAILS
    )
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="the shell")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from asa_engine.cli.main import build_parser

    print(shtab.complete(build_parser(), shell=args.shell))
    return 0
