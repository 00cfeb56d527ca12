"""`asa-engine train`: train a grader from a recipe."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asa_engine.cli.options import add_command, add_json_option
from asa_engine.errors import BackendError, UsageError

if TYPE_CHECKING:
    from asa_engine.training.rehearsal import Rehearsal, Side

DETAILS = """\
A recipe (TOML) names the data, the backbone, the grader and the schedule; recipes that ship are
found by name, e.g. `asa-engine train acoustic-tiny-en.toml`. Training saves after every epoch; run
the same command again after a kill and it goes on where it was. --dry-run reads manifests, headers
of recordings and headers of weights alone: who is held out, whether everything is there, and about
how many steps, how much memory and how long training takes here.

examples:
  asa-engine train acoustic-tiny-en.toml --dry-run
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
    parser.add_argument(
        "--dry-run", action="store_true", help="check and reckon everything, train nothing"
    )
    add_json_option(parser, "what --dry-run found")
    parser.add_argument("--fresh", action="store_true", help="start anew instead of resuming")


def run(args: argparse.Namespace) -> int:
    """Train, or go on training."""
    if importlib.util.find_spec("torch") is None:
        raise BackendError("training needs torch", hint="pip install 'asa-engine[train,backbones]'")
    from asa_engine.training import rehearse, train

    if args.json and not args.dry_run:
        raise UsageError("--json goes with --dry-run", hint="the checkpoint holds the report")
    if args.dry_run:
        found = rehearse(args.recipe)
        lines = [json.dumps(found.to_dict())] if args.json else _lines(found)
        print("\n".join(lines))
        return 0
    output = args.output or Path("runs") / args.recipe.stem
    train(args.recipe, output, resume=not args.fresh)
    print(f"checkpoint: {output}")
    return 0


def _lines(found: Rehearsal) -> Iterator[str]:
    yield f"train: {_said(found.train)}"
    yield f"dev: {_said(found.dev)}; {found.rule}"
    for model in found.models:
        size = f"{model.parameters / 1e6:.1f} M parameters, {model.bytes / 1e6:.0f} MB"
        yield f"{model.role}: {model.source}, {size if model.bytes else 'of the hub, not read'}"
    gigabytes = [size / 1e9 for size in (found.memory_bytes, found.machine_bytes)]
    yield f"memory: about {gigabytes[0]:.1f} GB of {gigabytes[1]:.1f} GB"
    yield f"steps: {found.steps}"
    yield f"time: about {_time(found.seconds)} on {found.threads} thread(s)"


def _said(side: Side) -> str:
    return f"{side.recordings} recordings of {side.speakers} speakers, {side.hours:.2f} hours"


def _time(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes / 60:.0f} hours" if minutes > 100 else f"{max(1, round(minutes))} minutes"
