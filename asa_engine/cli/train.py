"""`asa-engine train`: train a grader from a recipe."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from asa_engine.cli.options import add_command
from asa_engine.errors import BackendError

DETAILS = """\
A recipe (TOML) names the data, the backbone, the grader and the schedule; recipes that ship are
found by name, e.g. `asa-engine train acoustic-tiny-en.toml`. Training saves after every epoch; run
the same command again after a kill and it goes on where it was.

examples:
  asa-engine train acoustic-tiny-en.toml -o runs/acoustic
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "train", run, "Train a grader from a recipe.", DETAILS)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="the recipe")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="checkpoint folder (default runs/<recipe>)",
    )
    parser.add_argument("--fresh", action="store_true", help="start anew instead of resuming")


def run(args: argparse.Namespace) -> int:
    """Train, or go on training."""
    if importlib.util.find_spec("torch") is None:
        raise BackendError("training needs torch", mend="pip install 'asa-engine[train,backbones]'")
    from asa_engine.training import train

    output = args.output or Path("runs") / args.recipe.stem
    train(args.recipe, output, resume=not args.fresh)
    print(f"checkpoint: {output}")
    return 0
