"""`asa-engine tune`: choose the fastest way to run a bundle on this device."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from asa_engine.cli.options import (
    add_bundle_and_data,
    add_command,
    add_json_option,
    positive_float,
    positive_int,
)

DEFAULT_BUDGET = 0.02
DEFAULT_LIMIT = 50

DETAILS = """\
Runs every backend and precision that the bundle holds, at each thread count, on this device:
compares the scores with PyTorch's at fp32 (or, without PyTorch, with an fp32 variant's), then
times what stays within the budget: one window from file to scores, and the time from the end of a
stream to its scores. The native encoder also runs with a precision for each layer (native/mixed):
layers go to int8, the most tolerant first, as far as the budget bears. Prints the table.

With -o or --in-place it also writes the bundle with what was fastest first in its 'auto' order, the
table as tuning.json and, where the native backend was fastest, the weights as this CPU's kernels
read them. Exit code 5, and nothing written, if no variant is within the budget.

examples:
  asa-engine tune default --data dev.jsonl
  asa-engine tune default --data dev.jsonl --budget 0.01 -o bundles/kiosk
  asa-engine tune bundles/kiosk --data dev.jsonl --threads 1,2,4 --in-place
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "tune", run, "Choose the fastest way to run a bundle on this device.", DETAILS
    )
    add_bundle_and_data(parser)
    parser.add_argument(
        "--budget",
        type=positive_float,
        default=DEFAULT_BUDGET,
        metavar="X",
        help=f"largest RMS change of a score, on a scale of width 6 (default: {DEFAULT_BUDGET})",
    )
    parser.add_argument(
        "--threads",
        type=_thread_counts,
        metavar="N,...",
        help="thread counts to try (default: 1, 2, 4 and 8, as far as there are cores)",
    )
    parser.add_argument(
        "--limit",
        type=positive_int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"compare on at most N recordings, spread over the data (default: {DEFAULT_LIMIT})",
    )
    parser.add_argument(
        "--rounds", type=positive_int, default=15, metavar="N", help="turns each has (default: 15)"
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument("-o", "--output", type=Path, metavar="OUT", help="write a tuned copy here")
    target.add_argument("--in-place", action="store_true", help="change the bundle itself")
    add_json_option(parser, "the table")


def run(args: argparse.Namespace) -> int:
    """Print the table; write the tuned bundle if asked for."""
    from asa_engine.bundle import Bundle
    from asa_engine.cli.main import report_error
    from asa_engine.errors import DriftError, UsageError
    from asa_engine.evaluation.manifest import read_manifest
    from asa_engine.selection import check_threads
    from asa_engine.tuning.tune import tune, write_tuned

    threads = sorted({check_threads(n) for n in args.threads or default_counts()})
    bundle = Bundle.open(args.bundle)
    if args.output is not None and args.output.exists():
        raise UsageError(f"{args.output} exists already", hint="choose another place")
    utterances = read_manifest(args.data)
    step = -(-len(utterances) // args.limit)
    tuning = tune(
        bundle,
        [utterance.audio for utterance in utterances[::step]],
        budget=args.budget,
        threads=threads,
        rounds=args.rounds,
        progress=lambda line: print(f"tune: {line}", file=sys.stderr, flush=True),
    )
    try:
        tuning.check()
    except DriftError as error:
        report_error(error, as_json=False)
        verdict = error.to_dict()
    else:
        verdict = {}
    print(json.dumps({**tuning.to_dict(), **verdict}) if args.json else "\n".join(tuning.lines()))
    if verdict:
        return DriftError.exit_code
    target = bundle.path if args.in_place else args.output
    if target is not None:
        write_tuned(bundle, tuning, target, overwrite=args.in_place)
    if not args.json and (best := tuning.best) is not None:
        print(f"fastest within the budget: {best.backend}/{best.precision}, {best.threads} threads")
        print(f"written: {target}" if target else "nothing written (-o OUT or --in-place writes)")
    return 0


def default_counts() -> list[int]:
    """Return the thread counts to try, at most eight: windows are small."""
    from asa_engine.selection import usable_cores

    return [count for count in (1, 2, 4, 8) if count <= usable_cores()]


def _thread_counts(text: str) -> list[int]:
    return [positive_int(part) for part in text.split(",")]
