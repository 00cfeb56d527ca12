"""Choose the precision of each layer of the native encoder: as many in int8 as a budget bears.

Every layer is put into int8 alone, the others left at the precision int8's projections have; the
drift of the scores says how much each bears. Then layers join in that order, the most tolerant
first, and the largest number of them whose joint drift is within the budget is found by halving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asa_engine.audio.intake import heard_samples
from asa_engine.bundle import Bundle
from asa_engine.graders import grader_entry
from asa_engine.measuring.speech import read_samples

__all__ = ["LayerSearch", "LayerTrial", "search_layers", "searchable"]

Layers = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerTrial:
    """What one choice of precisions does to scores.

    Attributes:
        layers: Precision of each layer.
        drift_rms: Root mean square change of a score against native fp32, in score points.
    """

    layers: Layers
    drift_rms: float


@dataclass(frozen=True, slots=True)
class LayerSearch:
    """What was tried and what came of it.

    Attributes:
        layers: Precision of each layer: the most of them in int8 that the budget bears; empty
            where none is, or where it is what the precision `int8` does anyway.
        trials: Everything that was tried, in that order.
    """

    layers: Layers
    trials: tuple[LayerTrial, ...]


def searchable(bundle: Bundle) -> bool:
    """Tell whether a bundle's encoder takes a precision for each layer."""
    mixed = grader_entry(bundle.grader).mixed
    return mixed is not None and mixed.layers(bundle) > 0


def search_layers(
    bundle: Bundle,
    recordings: Sequence[Path],
    *,
    budget_rms: float,
    threads: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> LayerSearch:
    """Find the precisions of a bundle for which `searchable` is true.

    Args:
        bundle: Its checkpoint's weights are packed anew for each trial.
        recordings: Real speech.
        budget_rms: Largest RMS drift of a score, in score points.
        threads: Threads to encode with.
        progress: Called with one line for each trial.

    Raises:
        AudioError: A recording cannot be read.
    """
    entry = grader_entry(bundle.grader)
    mixed, front = entry.mixed, entry.config(bundle.config).front
    assert mixed is not None, "a bundle for which `searchable` is false"
    speech = [heard_samples(read_samples(path), front) for path in recordings]
    count, dense = mixed.layers(bundle), mixed.dense()
    score = mixed.scorer(bundle, threads)
    exact = score(("fp32",) * count, speech)
    trials: dict[Layers, LayerTrial] = {}

    def drift(lowered: Sequence[int]) -> float:
        layers = tuple("int8" if layer in lowered else dense for layer in range(count))
        if layers not in trials:
            change = float(np.sqrt(np.mean((score(layers, speech) - exact) ** 2)))
            trials[layers] = LayerTrial(layers, change)
            progress(f"{', '.join(layers)}: drift RMS {change:.2g}")
        return trials[layers].drift_rms

    if not exact.size:
        return LayerSearch((), ())
    order = sorted(range(count), key=lambda layer: drift([layer]))
    fits, fails = 0, count + 1
    while fails - fits > 1:
        # All at first: a generous budget bears them, and the halving is over.
        middle = count if fails > count else (fits + fails) // 2
        if drift(order[:middle]) <= budget_rms:
            fits = middle
        else:
            fails = middle
    chosen = tuple("int8" if layer in order[:fits] else dense for layer in range(count))
    named = (dense, *["int8"] * (count - 1))
    usual = chosen == named or "int8" not in chosen
    return LayerSearch(() if usual else chosen, tuple(trials.values()))
