"""What a backend of the acoustic grader is: the encoder on one window, the head on statistics.

A backend knows nothing of audio, windows or streams: the run feeds it the log-mel of one window at
a time and sums the statistics; so one audio has one score for every chunking. A `DeviceBackend`
computes the scores together with the window, because its device is far from the host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import Bundle
from asa_engine.gpu.device import Outputs
from asa_engine.runtimes import runtime

__all__ = ["Backend", "DeviceBackend", "Encoded", "HeadOutput", "Mels", "Sums", "of_one_length"]

Mels = Sequence[NDArray[np.float32]]
"""Windows: normalised log-mels, float32 [n_mels, T], of any lengths, each of one recording."""
Sums = NDArray[np.float64] | None
"""Statistics of each recording's earlier windows, float64 [windows, K]; `None` for none."""


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What the head computes from the statistics of a whole recording.

    Attributes:
        scores: Scores in scale units, float32 [A], in the order of the grader's aspects.
        prior: Probabilities of the acoustic prior's levels, float32 [L].
    """

    scores: NDArray[np.float32]
    prior: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One encoded window.

    Attributes:
        stats: Pooling statistics, additive over windows, float32 [K].
        frames: Encoder frames, float32 [T, D], 50 a second; `None` unless asked for.
        output: Scores and prior of the recording up to this window, where the backend computed
            them with it.
    """

    stats: NDArray[np.float32]
    frames: NDArray[np.float32] | None = None
    output: HeadOutput | None = None


class Backend(ABC):
    """The acoustic grader, loaded and ready on one runtime at one precision.

    Attributes:
        name: The runtime, a key of `asa_engine.runtimes.RUNTIMES`.
        precision: Precision it was opened at.
        threads: Threads it may use.
    """

    name: ClassVar[str]
    precision: str
    threads: int

    @classmethod
    @abstractmethod
    def open(cls, bundle: Bundle, *, precision: str, threads: int) -> Self:
        """Load the bundle's artifacts.

        Raises:
            BackendError: It cannot run here, or not at this precision.
            BundleError: The bundle holds no artifact for it.
        """

    @abstractmethod
    def encode(self, mel: NDArray[np.float32], *, frames: bool = False) -> Encoded:
        """Encode one window.

        Args:
            mel: Normalised log-mel of the window, float32 [n_mels, T], 100 frames a second.
            frames: Whether to return the encoder frames too.
        """

    @abstractmethod
    def head(self, stats: NDArray[np.float32]) -> HeadOutput:
        """Compute prior and scores from statistics summed over all windows, float32 [K]."""

    def versions(self) -> dict[str, str]:
        """Return the libraries the scores depend on and their versions."""
        return runtime(self.name).availability().versions


class DeviceBackend(Backend):
    """A backend on a device of its own: encoder, prior and head in one go, for many windows."""

    @abstractmethod
    def encode_many(self, mels: Mels, sums: Sums = None, *, frames: bool = False) -> Outputs:
        """Encode windows and score each recording up to its window.

        Args:
            mels: As `Mels` says.
            sums: As `Sums` says.
            frames: Whether to return the encoder frames too.

        Raises:
            BackendError: The device failed.
        """

    def encode(self, mel: NDArray[np.float32], *, frames: bool = False) -> Encoded:
        """Encode the first window of a recording."""
        return self.encode_next(mel, None, frames=frames)

    def encode_next(
        self, mel: NDArray[np.float32], sums: NDArray[np.float64] | None, *, frames: bool = False
    ) -> Encoded:
        """Encode one window; score the recording up to it.

        Args:
            mel: Normalised log-mel of the window, float32 [n_mels, T].
            sums: Statistics of the recording's earlier windows, float64 [K]; `None` for none.
            frames: Whether to return the encoder frames too.
        """
        outputs = self.encode_many([mel], None if sums is None else sums[np.newaxis], frames=frames)
        output = HeadOutput(outputs.scores[0], outputs.prior[0])
        return Encoded(outputs.stats[0], outputs.frames[0] if outputs.frames else None, output)


def of_one_length(mels: Sequence[NDArray[np.float32]], most: int) -> Iterator[list[int]]:
    """Yield the places of windows that can run together, at most so many at once."""
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for row, mel in enumerate(mels):
        rows[mel.shape[1]].append(row)
    for alike in rows.values():
        for start in range(0, len(alike), most):
            yield alike[start : start + most]
