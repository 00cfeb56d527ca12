"""`asa-engine bench`: time every candidate against the PyTorch reference on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from asa_engine.cli.options import add_command, add_json_option, positive_int
from asa_engine.errors import DriftError, UsageError

DETAILS = """\
Opens every backend and precision that the bundle holds, each in a process of its own, compares
its scores with the PyTorch reference, refuses what drifts too far, and times the rest in turns.
Writes <host>.json (raw samples) and <host>.html (one page with plots). Needs 'asa-engine[bench]'.

examples:
  asa-engine bench
  asa-engine bench --candidate onnxruntime/int8 --threads 1 --rounds 50
  asa-engine bench --install-size . --output benchmarks/results
  asa-engine bench --smoke --output build/bench
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "bench", run, "Measure speed and score drift on this machine.", DETAILS
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="B",
        default=Path("acoustic"),
        help="bundle or checkpoint folder (default: acoustic, which ships for every backend)",
    )
    parser.add_argument(
        "--candidate",
        action="append",
        metavar="BACKEND/PRECISION",
        help="time this one only; may be repeated (default: all that the bundle holds)",
    )
    parser.add_argument(
        "--threads",
        type=positive_int,
        nargs="+",
        metavar="N",
        help="thread counts (default: 1 2)",
    )
    parser.add_argument(
        "--rounds", type=positive_int, metavar="N", help="turns a candidate has (default: 20)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="speech: a manifest (.jsonl) or one recording (default: the corpus that ASA_SHARED "
        "or ../shared holds, else the demo recording)",
    )
    parser.add_argument(
        "--install-size",
        metavar="SOURCE",
        help="also size a run-time install of this wheel or source tree (slow: builds, downloads)",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="take every path once; the figures mean nothing"
    )
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="where to write (default: benchmarks/results)",
    )
    add_json_option(parser, "the result")


def run(args: argparse.Namespace) -> int:
    """Run the benchmarks, write both files, print the table.

    Raises:
        UsageError: The place to write to is none, or there is no speech.
        DriftError: A candidate was refused; everything else has been measured and written.
    """
    from asa_engine.bench.report import write_result
    from asa_engine.bench.result import summary_lines
    from asa_engine.bench.run import Plan, parse_variants, run_session
    from asa_engine.measuring.speech import find_source

    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise UsageError(f"{args.output} cannot be written: {failure.strerror}") from None
    plan = Plan(
        source=args.data or find_source(),
        bundle=args.bundle,
        variants=parse_variants(args.candidate) if args.candidate else None,
        install_source=args.install_size,
    )
    if args.threads:
        plan = replace(plan, threads=tuple(dict.fromkeys(args.threads)))
    if args.smoke:
        plan = plan.smoke()
    if args.rounds:
        plan = replace(plan, rounds=args.rounds)
    result = run_session(plan, command=_command(args), progress=_say)
    page = write_result(result, args.output)
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(summary_lines(result)))
        print(f"\nwritten: {page.with_suffix('.json')} and {page}")
    if result["refused"]:
        names = ", ".join(sorted({entry["candidate"] for entry in result["refused"]}))
        raise DriftError(f"not timed: {names}", hint="the result says why")
    return 0


def _command(args: argparse.Namespace) -> str:
    """The command line for the result: options that matter, paths by their last part."""
    words = ["asa-engine bench"]
    if args.bundle != Path("acoustic"):
        words.append(f"--bundle {args.bundle.name}")
    words += [f"--candidate {name}" for name in args.candidate or ()]
    if args.threads:
        words.append(f"--threads {' '.join(map(str, args.threads))}")
    if args.rounds:
        words.append(f"--rounds {args.rounds}")
    if args.data:
        words.append(f"--data {args.data.name}")
    if args.install_size:
        words.append(f"--install-size {Path(args.install_size).name or '.'}")
    return " ".join([*words, *(["--smoke"] if args.smoke else [])])


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)
