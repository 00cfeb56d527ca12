"""How far a grader agrees with the experts of speechocean762, beside what others publish.

    python benchmarks/agreement.py TEST_MANIFEST [--bundle BUNDLE] [--limit N] [--free] [--json]
    python benchmarks/agreement.py --folds TRAINING_REPORT [--json]

The first form scores recordings through the engine, as a user would: give it the corpus's test
half, which no model here has heard (`asa-engine corpus` makes the manifest). The second prints the
speaker-disjoint folds of the training half that a checkpoint's `training.json` holds; they are not
the published split, and stand apart in the table. One thread; seconds are wall time of this
machine, decoding included.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import asa_engine
from asa_engine.evaluation.agreement import group_rows, intervals
from asa_engine.evaluation.manifest import Utterance, read_manifest
from asa_engine.evaluation.metrics import pcc
from asa_engine.evaluation.words import WordTally, expert_words

ASPECTS = ("accuracy", "fluency", "prosodic", "total")
PUBLISHED = (
    ("best published, three large encoders", (0.791, 0.845, 0.837, 0.816), None, 0.657),
    ("OpenPronounce, total on 500 recordings", (None, None, None, 0.633), None, None),
)
"""Pearson correlations on the test half: what, aspects, words, phones. As their authors state."""


def score(utterances: Sequence[Utterance], bundle: str | None, *, free: bool) -> dict[str, Any]:
    """Score recordings; return agreement, groups, seconds and what could not be scored."""
    engine = asa_engine.load(bundle, threads=1)
    takes_text = "text" in engine.uses and not free
    tally = WordTally()
    rows: list[Utterance] = []
    values: list[list[float]] = []
    refused: dict[str, list[str]] = {}
    seconds = audio_s = 0.0
    for utterance in utterances:
        start = time.perf_counter()
        result = engine.assess(utterance.audio, text=utterance.text if takes_text else None)
        seconds += time.perf_counter() - start
        audio_s += result.timing.audio_s
        if not result.validity.scorable:
            refused[utterance.id] = list(result.validity.reasons)
            continue
        rows.append(utterance)
        values.append([result.scores[name].value for name in ASPECTS])
        tally.add(result.words, expert_words(utterance))
    said = np.array(values)
    wanted = np.array([[utterance.scores[name] for name in ASPECTS] for utterance in rows])
    predicted = {name: said[:, i] for i, name in enumerate(ASPECTS)}
    expected = {name: wanted[:, i] for i, name in enumerate(ASPECTS)}
    spread = intervals(predicted, expected, [u.speaker for u in rows], dict.fromkeys(ASPECTS, 1.0))
    return {
        "bundle": engine.bundle.name,
        "backend": f"{engine.choice.backend}/{engine.choice.precision}",
        "n": len(rows),
        "refused": refused,
        "aspects": {
            name: {
                "pcc": pcc(predicted[name], expected[name]),
                "interval": spread["aspects"][name]["pcc"],
            }
            for name in ASPECTS
        },
        "groups": {
            title: {name: pcc(predicted[name][some], expected[name][some]) for name in ASPECTS}
            for title, some in group_rows(rows).items()
        },
        "words": tally.to_dict(),
        "seconds_a_recording": seconds / max(1, len(utterances)),
        "real_time_factor": seconds / max(audio_s, 1e-9),
    }


def folds(
    report: dict[str, Any],
) -> list[tuple[str, tuple[float, ...], float | None, float | None]]:
    """Return the table's rows of a training report."""
    names = {
        "free": "asa_engine, no text (folds)",
        "text": "asa_engine, dictionary (folds)",
        "text-told": "asa_engine, corpus's phones (folds)",
    }
    return [
        (
            title,
            tuple(report[name]["aspects"][aspect]["pcc"] for aspect in ASPECTS),
            report[name].get("words", {}).get("pcc"),
            report[name].get("phones", {}).get("pcc"),
        )
        for name, title in names.items()
    ]


def table(rows: Sequence[tuple[str, Sequence[float | None], float | None, float | None]]) -> str:
    """Return rows as a Markdown table."""
    lines = [
        "| | accuracy | fluency | prosody | total | mean | words | phones |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, aspects, words, phones in rows:
        known = [value for value in aspects if value is not None]
        mean = float(np.mean(known)) if len(known) == len(ASPECTS) else None
        cells = [f"{v:.3f}" if v is not None else "" for v in (*aspects, mean, words, phones)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manifest", nargs="?", type=Path)
    parser.add_argument("--folds", type=Path, help="a checkpoint's training.json")
    parser.add_argument("--bundle", help="by default the one that ships")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--free", action="store_true", help="keep the text back")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if (options.manifest is None) == (options.folds is None):
        parser.error("give a manifest or --folds")
    if options.folds is not None:
        rows = folds(json.loads(options.folds.read_text(encoding="utf-8")))
        print(json.dumps(rows) if options.json else table([*rows, *PUBLISHED]))
        return 0
    utterances = read_manifest(options.manifest)
    if options.limit:
        utterances = utterances[:: max(1, len(utterances) // options.limit)]
    found = score(utterances, options.bundle, free=options.free)
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    aspects = tuple(found["aspects"][name]["pcc"] for name in ASPECTS)
    print(
        table(
            [(f"asa_engine {found['bundle']}, {found['backend']}", aspects, None, None), *PUBLISHED]
        )
    )
    print(
        f"\n{found['n']} recordings, {len(found['refused'])} refused; "
        f"{1e3 * found['seconds_a_recording']:.0f} ms a recording, "
        f"real-time factor {found['real_time_factor']:.3f}"
    )
    for title, group in found["groups"].items():
        print(f"{title}: " + ", ".join(f"{name} {value:.3f}" for name, value in group.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
