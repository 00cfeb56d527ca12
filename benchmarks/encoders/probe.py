"""What an encoder's errors do to scores: a linear probe on its output, fitted on real speech.

Ridge regression from the mean and deviation over time of the last hidden states to the scores that
a corpus's experts gave. It stands for a grader on top of the encoder, the same for every runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import AsaError
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.evaluation.splits import dev_split
from asa_engine.graders.acoustic.backends.native import WhisperEncoder
from asa_engine.kernels import log_mel
from asa_engine.measuring.speech import read_samples, samples_in_memory
from benchmarks.encoders.models import ModelFiles

__all__ = ["Drift", "Probe", "drift_windows", "fit_probe", "prepare_drift", "read_scored"]

Array = NDArray[np.float32]
Vector = NDArray[np.float64]

SCALE_WIDTH = 10.0
BUDGET_WIDTH = 6.0  # drift is stated on a scale of this width, as budgets are
RECORDINGS = 250
DRIFT_SECONDS = 5.0
_LONGEST_S = 10.0
_RIDGE = 200.0  # strong: there are more features than recordings


@dataclass(frozen=True, slots=True)
class Probe:
    """Maps hidden states to scores.

    Attributes:
        mean: Of the features, [2 D].
        deviation: Of the features, [2 D].
        weight: [2 D, aspects].
        bias: [aspects].
    """

    mean: Vector
    deviation: Vector
    weight: Vector
    bias: Vector

    def scores(self, states: Array) -> Vector:
        """Map hidden states [B, T, D] to scores [B, aspects]."""
        features = np.stack([_features(window) for window in states])
        scores: Vector = (features - self.mean) / self.deviation @ self.weight + self.bias
        return scores

    def drift_rms(self, states: Array, reference: Array) -> float:
        """Return the RMS change of a score, on a scale of width 6."""
        difference = self.scores(states) - self.scores(reference)
        return float(np.sqrt(np.mean(difference**2)) * BUDGET_WIDTH / SCALE_WIDTH)


@dataclass(frozen=True, slots=True)
class Drift:
    """What drift is measured with: windows in a file, and what makes scores of their states."""

    probe: Probe
    mel: Path


def prepare_drift(
    source: Path, recordings: Sequence[Path], model: ModelFiles, *, threads: int, target: Path
) -> Drift | None:
    """Fit the probe on one model and write the windows; `None` where the speech has no scores.

    Args:
        source: Manifest whose recordings the probe is fitted on.
        recordings: At least 5 s each; drift is taken on windows of all of them.
        model: Its float32 encoder runs on the native kernels.
        threads: Threads to fit with.
        target: Where the windows go.
    """
    scored = read_scored(source)
    if not scored:
        return None
    encoder = WhisperEncoder.load(model.hugging_face, precision="fp32", threads=threads)

    def mel_of(samples: Array) -> Array:
        return log_mel(samples, model.n_mels)

    probe = fit_probe(scored, mel_of, encoder.encode)
    windows = drift_windows([samples_in_memory(path) for path in recordings], mel_of)
    np.save(target, windows, allow_pickle=False)
    return Drift(probe, target)


def read_scored(manifest: Path) -> list[tuple[Path, Vector]]:
    """Return recordings of training speakers, spread over them, with the experts' scores.

    Empty where the source holds no scores.
    """
    if manifest.suffix != ".jsonl":
        return []
    try:
        train = dev_split(read_manifest(manifest))[0]
    except AsaError:
        return []
    names = sorted(set.intersection(*(set(u.scores) for u in train))) if train else []
    if not names:
        return []
    return [
        (u.audio, np.array([u.scores[name] for name in names], dtype=np.float64))
        for u in train[:: max(1, len(train) // RECORDINGS)]
    ]


def fit_probe(
    scored: Sequence[tuple[Path, Vector]],
    log_mel: Callable[[Array], Array],
    encode: Callable[[Array], Array],
) -> Probe:
    """Fit the probe on an encoder at float32.

    Args:
        scored: As `read_scored` returns them; not empty.
        log_mel: Samples [n] at 16 kHz to [n_mels, T].
        encode: Log-mel [n_mels, T] to hidden states [ceil(T / 2), D].
    """
    longest = round(_LONGEST_S * 16_000)
    features = np.stack([_features(encode(log_mel(read_samples(p)[:longest]))) for p, _ in scored])
    scores = np.stack([values for _, values in scored])
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    normal, bias = (features - mean) / deviation, scores.mean(0)
    gram = normal.T @ normal + _RIDGE * np.eye(normal.shape[1])
    return Probe(mean, deviation, np.linalg.solve(gram, normal.T @ (scores - bias)), bias)


def drift_windows(recordings: Sequence[Array], log_mel: Callable[[Array], Array]) -> Array:
    """Cut a window of 5 s out of every 15 s of each recording: log-mel [B, n_mels, 500]."""
    size = round(DRIFT_SECONDS * 16_000)
    windows = [
        samples[start : start + size]
        for samples in recordings
        for start in range(0, len(samples) - size + 1, 3 * size)
    ]
    return np.stack([log_mel(window) for window in windows])


def _features(states: Array) -> Vector:
    wide = states.astype(np.float64)
    return np.concatenate([wide.mean(0), wide.std(0)])
