"""`asa-engine evaluate`: how well a grader agrees with experts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from asa_engine.cli.options import (
    add_bundle_and_data,
    add_command,
    add_engine_options,
    add_json_option,
    positive_int,
)
from asa_engine.cli.progress import progress
from asa_engine.errors import ManifestError
from asa_engine.evaluation.metrics import METRICS

DETAILS = """\
Scores every recording of a manifest (JSON Lines: id, audio, scores) and compares with the experts'
scores: Pearson's (pcc), Spearman's (srcc) and Kendall's (krc) correlation, root mean square (rmse)
and mean absolute (mae) error, shares within 0.5 and 1.0 points, quadratically weighted kappa in
steps of the scale (qwk); with intervals over speakers, by group (age, gender, first_language) and
by speakers' means. Graders that classify: accuracy, macro accuracy, macro F1, confusion. Graders of
words: words and phones, by whatever labels the manifest has. A manifest of sessions (session,
parts, scores) compares each part and `overall`; of a grader of recordings, the means of its
"total", or of its only aspect.

examples:
  asa-engine evaluate default --data train.jsonl --dev
  asa-engine evaluate runs/acoustic --data test.jsonl --json
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "evaluate", run, "Compare a grader's scores with experts' on a manifest.", DETAILS
    )
    what = "folder, or the name of one that ships"
    add_bundle_and_data(parser, "BUNDLE_OR_CHECKPOINT", what)
    side = parser.add_mutually_exclusive_group()
    side.add_argument("--dev", action="store_true", help="only speakers that training holds out")
    side.add_argument("--split", metavar="NAME", help="only lines of that split, e.g. test")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N lines")
    add_engine_options(parser, bundle=False)
    add_json_option(parser, "the metrics")


def run(args: argparse.Namespace) -> int:
    """Print the metrics of every aspect."""
    from asa_engine.engine import load
    from asa_engine.evaluation.evaluate import evaluate, evaluate_sessions
    from asa_engine.evaluation.manifest import read_manifest
    from asa_engine.evaluation.sessions import holds_sessions, read_sessions
    from asa_engine.evaluation.splits import dev_split, session_split

    engine = load(args.bundle, backend=args.backend, precision=args.precision, threads=args.threads)
    if holds_sessions(args.data):
        sessions = _chosen(args, read_sessions(args.data), session_split)
        evaluation = evaluate_sessions(engine, sessions, progress=progress)
    else:
        utterances = _chosen(args, read_manifest(args.data), dev_split)
        evaluation = evaluate(engine, utterances, progress=progress)
    figures = evaluation.to_dict()
    if args.json:
        print(json.dumps(figures, allow_nan=False))
        return 0
    print("\n".join(_lines(figures)))
    print(
        f"{figures['n']} scored, {len(figures['unscorable'])} left out as unscorable, "
        f"{figures['seconds_per_audio_hour']:.1f} s an hour of audio "
        f"({engine.choice.backend} {engine.choice.precision}, {engine.threads} thread(s))"
    )
    return 0


class _Split(Protocol):
    @property
    def split(self) -> str: ...


_Item = TypeVar("_Item", bound=_Split)


def _chosen(
    args: argparse.Namespace,
    items: Sequence[_Item],
    sides: Callable[[Sequence[_Item]], tuple[Sequence[_Item], Sequence[_Item]]],
) -> Sequence[_Item]:
    """Return the items of the split that is asked for, as many as are."""
    if args.dev:
        items = sides(items)[1]
    elif args.split:
        items = [item for item in items if item.split == args.split]
    if not items:
        side = "dev speaker" if args.dev else f"line of the split {args.split!r}"
        raise ManifestError(f"{args.data} has no {side}", hint="leave the option out")
    return items[: args.limit]


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    yield from _table("", values["aspects"])
    spans = values["intervals"]
    yield f"{spans['confidence']:.0%} interval of pcc and rmse, resampling speakers:"
    for name, each in spans["aspects"].items():
        cells = (f"{metric} {_span(each[metric])}" for metric in ("pcc", "rmse"))
        yield f"  {name}: {', '.join(cells)}"
    if "by_speaker" in values:
        yield from _table(f"means of {values['by_speaker']['n']} speakers", **values["by_speaker"])
    for title, group in values.get("groups", {}).items():
        yield from _table(f"{title} ({group['n']} recordings)", **group)
    for name, answers in values.get("classes", {}).items():
        for answer in ("likeliest_class", "level"):
            figures = (f"{k} {v:.4f}" for k, v in answers[answer].items() if k != "confusion")
            yield f"{name}, {answer}: {', '.join(figures)}"
    for name in ("words", "phones", "word_errors", "rationales"):
        if name in values:
            yield f"{name}: {json.dumps(values[name])}"


def _table(
    title: str, aspects: Mapping[str, Mapping[str, float | None]], **_: object
) -> Iterator[str]:
    if title:
        yield title
    yield f"{'aspect':<12}" + "".join(f"{name:>12}" for name in METRICS)
    for name, values in aspects.items():
        cells = (values[metric] for metric in METRICS)
        said = ("undefined" if value is None else f"{round(value, 4) + 0:.4f}" for value in cells)
        yield f"{name:<12}" + "".join(f"{cell:>12}" for cell in said)


def _span(ends: Sequence[float] | None) -> str:
    return "undefined" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
