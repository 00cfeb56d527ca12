"""`asa-engine evaluate`: how well a grader agrees with experts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from asa_engine.cli.options import add_command, add_engine_options, add_json_option, positive_int
from asa_engine.cli.progress import progress

DETAILS = """\
Scores every recording of a manifest (JSON Lines: id, audio, scores) and compares with the experts'
scores: Pearson (pcc) and Spearman (srcc) correlation, root mean square (rmse) and mean absolute
(mae) error, shares within 0.5 and 1.0 points, quadratically weighted kappa (qwk). A manifest of
sessions (session, parts, scores) compares each part and `overall`; of a grader of recordings, the
means of its "total", or of its only aspect.

examples:
  asa-engine evaluate default --data train.jsonl --dev
  asa-engine evaluate runs/acoustic --data test.jsonl --json
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "evaluate", run, "Compare a grader's scores with experts' on a manifest.", DETAILS
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE_OR_CHECKPOINT", help="folder, or 'default' for the shipped bundle"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="MANIFEST", help="JSON Lines")
    parser.add_argument(
        "--dev", action="store_true", help="only speakers whose number is divisible by 5"
    )
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N lines")
    add_engine_options(parser, bundle=False)
    add_json_option(parser, "the metrics")


def run(args: argparse.Namespace) -> int:
    """Print the metrics of every aspect."""
    from asa_engine.engine import load
    from asa_engine.evaluation import evaluate, evaluate_sessions
    from asa_engine.manifest import dev_split, read_manifest
    from asa_engine.session import holds_sessions, read_sessions

    engine = load(args.bundle, backend=args.backend, precision=args.precision, threads=args.threads)
    if holds_sessions(args.data):
        sessions = read_sessions(args.data)
        if args.dev:
            sessions = [session for session in sessions if session.is_dev]
        found = evaluate_sessions(engine, sessions[: args.limit], progress=progress).to_dict()
    else:
        utterances = read_manifest(args.data)
        if args.dev:
            utterances = dev_split(utterances)[1]
        found = evaluate(engine, utterances[: args.limit], progress=progress).to_dict()
    if args.json:
        print(json.dumps(found))
        return 0
    columns = list(next(iter(found["aspects"].values())))
    print(f"{'aspect':<12}" + "".join(f"{name:>12}" for name in columns))
    for name, values in found["aspects"].items():
        cells = (values[column] for column in columns)
        said = ("undefined" if value is None else f"{value:.4f}" for value in cells)
        print(f"{name:<12}" + "".join(f"{cell:>12}" for cell in said))
    for name in ("words", "phones", "rationales"):
        if name in found:
            print(f"{name}: {json.dumps(found[name])}")
    print(
        f"{found['n']} scored, {len(found['unscorable'])} left out as unscorable, "
        f"{found['seconds_per_audio_hour']:.1f} s an hour of audio "
        f"({engine.choice.backend} {engine.choice.precision}, {engine.threads} thread(s))"
    )
    return 0
