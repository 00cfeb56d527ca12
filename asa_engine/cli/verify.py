"""`asa-engine verify`: compare a bundle with the checkpoint it came from, in score points."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from asa_engine.cli.options import (
    add_bundle_and_data,
    add_command,
    add_json_option,
    positive_float,
    positive_int,
)
from asa_engine.cli.progress import progress
from asa_engine.errors import BackendError, BundleError
from asa_engine.runtimes import RUNTIMES, runtime
from asa_engine.selection import AUTO, PRECISIONS, default_threads

if TYPE_CHECKING:
    from asa_engine.bundle import Bundle

DETAILS = """\
Scores every recording of a manifest with the checkpoint in PyTorch and with each variant of the
bundle, and prints for each aspect: root mean square and largest change of the score, its mean,
recordings whose level flips, and what happens to correlation and error against the experts.
Exit code 5 if a variant is over its budget. Budgets are in points of a scale of width 6 and are
scaled to each aspect: fp32 at most 0.0001; bf16 RMS 0.01; int8 RMS 0.02; int4 RMS 0.05.

examples:
  asa-engine verify default --against runs/acoustic --data dev.jsonl
  asa-engine verify bundles/tiny --against runs/acoustic --data dev.jsonl --precision int8 --json
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "verify", run, "Compare a bundle's scores with its checkpoint's.", DETAILS
    )
    add_bundle_and_data(parser)
    parser.add_argument(
        "--against",
        metavar="CHECKPOINT",
        help="the checkpoint (default: the one that the bundle holds)",
    )
    parser.add_argument(
        "--backend", default=AUTO, choices=[AUTO, *RUNTIMES], help="only this backend"
    )
    parser.add_argument(
        "--precision", default=AUTO, choices=[AUTO, *PRECISIONS], help="only this precision"
    )
    parser.add_argument("--dev", action="store_true", help="only speakers that training holds out")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N lines")
    parser.add_argument(
        "--budget", type=positive_float, metavar="X", help="largest RMS, on a scale of width 6"
    )
    add_json_option(parser, "the comparison")


def run(args: argparse.Namespace) -> int:
    """Print the comparison of every variant; fail if one is over its budget."""
    from asa_engine.bundle import Bundle
    from asa_engine.engine import open_bundle
    from asa_engine.graders import grader_entry
    from asa_export.parity import REFERENCE, Scorer, compare
    from asa_export.speech import manifest_recordings

    bundle = open_bundle(args.bundle, args.backend, args.precision)
    against = bundle if args.against is None else Bundle.open(args.against)
    front = grader_entry(bundle.grader).config(bundle.config).front
    speech = manifest_recordings(args.data, dev=args.dev, limit=args.limit).heard(front)
    variants = [
        (backend, precision)
        for backend, precision in bundle.variants()
        if args.backend in (AUTO, backend)
        and args.precision in (AUTO, precision)
        and ((backend, precision) != REFERENCE or args.backend == backend)
    ]
    if not variants:
        raise BundleError(
            f"{bundle.name} holds nothing for {args.backend} at {args.precision}",
            hint=f"it holds {', '.join('/'.join(variant) for variant in bundle.variants())}",
        )
    if args.backend == AUTO:
        variants = _usable(bundle, variants)
    parities = compare(
        Scorer(against, *REFERENCE),
        [Scorer(bundle, *variant) for variant in variants],
        progress(speech.judging),
        speech.description,
        rms_budget=args.budget,
        workers=default_threads(),
    )
    if args.json:
        # The error, where there is one, follows as a line of its own.
        print(json.dumps({parity.variant: parity.to_dict() for parity in parities}))
    else:
        print("\n".join(parity.table() for parity in parities))
    for parity in parities:
        parity.check()
    return 0


def _usable(bundle: Bundle, variants: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out, and name, what cannot run here: a GPU's variants are verified where one is."""
    usable, skipped = [], {}
    for backend, precision in variants:
        state = runtime(backend).availability()
        if state.usable:
            usable.append((backend, precision))
        else:
            skipped[f"{backend}/{precision}"] = state.reason
            print(f"verify: {backend}/{precision} left out: {state.reason}", file=sys.stderr)
    if not usable:
        raise BackendError(
            f"no variant of {bundle.name} can run here",
            hint="; ".join(dict.fromkeys(skipped.values())),
        )
    return usable
