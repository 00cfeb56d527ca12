"""What is timed. A subject lives alone in a worker process and does one pass when told to.

Graders go all the way from a file on disk to its scores: the engine as its users run it, and the
PyTorch reference used as well as we know how. Extractors turn samples into log-mels.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio import SAMPLE_RATE_HZ
from asa_engine.audio.intake import heard_samples
from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError
from asa_engine.measuring.speech import read_samples, samples_in_memory

if TYPE_CHECKING:
    from asa_engine.assessment import Assessment, Timing
    from asa_engine.engine import Engine

__all__ = [
    "BatchedReference",
    "EngineGrader",
    "Extractor",
    "Grader",
    "HuggingFaceLogMel",
    "NativeLogMel",
    "StagesReference",
    "make_subject",
]

Mel = NDArray[np.float32]


class Grader(ABC):
    """Scores recordings."""

    @abstractmethod
    def scores(self, files: Sequence[Path]) -> list[dict[str, float] | None]:
        """Return the scores of each recording; `None` where it is not scorable."""

    def assess(self, files: Sequence[Path]) -> None:
        """Do the whole way from files to scores, once."""
        self.scores(files)

    def stages_ms(self) -> dict[str, float]:
        """Where the time went, stage -> median over the longest recordings assessed so far."""
        return {}

    @abstractmethod
    def time_to_score_ms(self, file: Path, *, chunk_ms: int, paced_chunks: int) -> float:
        """Feed a recording as a stream; return the time from its last chunk to its scores.

        Args:
            file: The recording.
            chunk_ms: Length of a chunk.
            paced_chunks: So many chunks before the last come at the speed of speech, so that the
                machine is as idle, and its caches as cold, as they are for a live learner.
        """


class EngineGrader(Grader):
    """The engine, with everything it does for its users: decoding, validity, receipt."""

    def __init__(self, bundle: Bundle, *, backend: str, precision: str, threads: int) -> None:
        from asa_engine.engine import Engine

        self._engine: Engine = Engine(bundle, backend=backend, precision=precision, threads=threads)
        self._timings: list[Timing] = []

    def scores(self, files: Sequence[Path]) -> list[dict[str, float] | None]:
        """Score file after file."""
        results = [self._engine.assess(file) for file in files]
        self._timings += [result.timing for result in results]
        return [_values(result) for result in results]

    def stages_ms(self) -> dict[str, float]:
        """Medians of the engine's own timings; decoding includes the validity checks."""
        longest = max((timing.audio_s for timing in self._timings), default=0.0)
        chosen = [timing for timing in self._timings if timing.audio_s == longest]
        return {
            stage: median(getattr(timing, f"{stage}_ms") for timing in chosen)
            for stage in ("decode", "features", "recogniser", "encoder", "backbone", "head")
            if chosen and all(getattr(timing, f"{stage}_ms") is not None for timing in chosen)
        }

    def time_to_score_ms(self, file: Path, *, chunk_ms: int, paced_chunks: int) -> float:
        """Time the last `feed` and `finish`, seen from outside the engine."""
        chunk = SAMPLE_RATE_HZ * chunk_ms // 1000
        samples = samples_in_memory(file)
        starts = range(0, samples.size, chunk)
        with self._engine.stream(SAMPLE_RATE_HZ) as stream:
            for index, start in enumerate(starts[:-1]):
                if index >= len(starts) - 1 - paced_chunks:
                    time.sleep(chunk_ms / 1e3)
                stream.feed(samples[start : start + chunk])
            if paced_chunks:
                time.sleep(chunk_ms / 1e3)
            begin = time.perf_counter()
            stream.feed(samples[starts[-1] :])
            stream.finish()
            return 1e3 * (time.perf_counter() - begin)


class BatchedReference(Grader):
    """The grader's PyTorch module, windows of equal length in one call, with our decoder.

    Args:
        bundle: The bundle, of a grader that has such a reference.
        threads: PyTorch's threads.
        batch: Most windows a call of the encoder.
    """

    def __init__(self, bundle: Bundle, *, threads: int, batch: int) -> None:
        from asa_engine.graders import grader_entry

        entry = grader_entry(bundle.grader)
        opener = entry.reference_many
        if opener is None:
            raise BackendError(f"the {bundle.grader} grader has no batched reference")
        self._score_many = opener(bundle, threads, batch)
        self._front = entry.config(bundle.config).front

    def scores(self, files: Sequence[Path]) -> list[dict[str, float] | None]:
        """Score recordings together."""
        return self._score_many([heard_samples(read_samples(file), self._front) for file in files])

    def time_to_score_ms(self, file: Path, *, chunk_ms: int, paced_chunks: int) -> float:
        """Time the whole file: the reference cannot start before the speech has ended."""
        # The engine's caches are warm from the stream before its last chunk; be fair.
        self.assess([file])
        begin = time.perf_counter()
        self.assess([file])
        return 1e3 * (time.perf_counter() - begin)


class StagesReference(Grader):
    """A grader's PyTorch stages on the very words that its exports hear.

    What an export's scores are compared with. What its speed is compared with is the whole
    PyTorch pipeline, `EngineGrader` on torch/fp32, whose recogniser may hear other words.

    Args:
        bundle: The bundle.
        threads: PyTorch's threads.
    """

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        from asa_engine.graders import grader_entry

        self._entry = grader_entry(bundle.grader)
        self._config = self._entry.config(bundle.config)
        self._stages = self._entry.open_reference(bundle, threads)

    def scores(self, files: Sequence[Path]) -> list[dict[str, float] | None]:
        """Score file after file."""
        return [self._score(file) for file in files]

    def time_to_score_ms(self, file: Path, *, chunk_ms: int, paced_chunks: int) -> float:
        """Time the whole file: the reference cannot start before the speech has ended."""
        begin = time.perf_counter()
        self.assess([file])
        return 1e3 * (time.perf_counter() - begin)

    def _score(self, file: Path) -> dict[str, float] | None:
        from asa_engine.profiling import StageClock
        from asa_engine.request import Request

        run = self._entry.run(self._config, self._stages, StageClock(), Request())
        run.push(heard_samples(read_samples(file), self._config.front))
        grade = run.finish()
        if grade is None or not grade.scorable:
            return None
        return {name: score.value for name, score in grade.scores.items()}


class Extractor(ABC):
    """Turns samples into a log-mel."""

    def stages_ms(self) -> dict[str, float]:
        """A single stage has nothing to tell apart."""
        return {}

    @abstractmethod
    def log_mel(self, samples: NDArray[np.float32]) -> Mel:
        """Return the log-mel float32 [n_mels, n // 160] of float32 [n] at 16 kHz."""


class NativeLogMel(Extractor):
    """The engine's fused kernel."""

    def log_mel(self, samples: NDArray[np.float32]) -> Mel:
        """Call the kernel."""
        from asa_engine import kernels

        return kernels.log_mel(samples)


class HuggingFaceLogMel(Extractor):
    """`transformers.WhisperFeatureExtractor`, told not to pad, so that it does no needless work."""

    def __init__(self, *, threads: int) -> None:
        import torch
        from transformers import WhisperFeatureExtractor

        torch.set_num_threads(threads)
        extractor: Any = WhisperFeatureExtractor
        self._extract = extractor()

    def log_mel(self, samples: NDArray[np.float32]) -> Mel:
        """Call the extractor (its PyTorch way, which is the faster one)."""
        features = self._extract(
            samples, sampling_rate=SAMPLE_RATE_HZ, padding=False, return_tensors="np"
        ).input_features[0]
        mel: Mel = features[:, : samples.size // 160]
        return mel


def make_subject(kind: str, options: dict[str, Any]) -> Grader | Extractor:
    """Make a subject from what a worker was sent.

    Raises:
        BackendError: The kind is unknown, or a library it needs is not installed.
    """
    options = dict(options)
    if "bundle" in options:
        options["bundle"] = Bundle.open(options["bundle"])
    kinds: dict[str, type[Grader] | type[Extractor]] = {
        "engine": EngineGrader,
        "batched-reference": BatchedReference,
        "stages-reference": StagesReference,
        "native-log-mel": NativeLogMel,
        "hf-log-mel": HuggingFaceLogMel,
    }
    if kind not in kinds:
        raise BackendError(f"there is nothing to time called {kind!r}")
    try:
        return kinds[kind](**options)
    except ImportError as missing:
        raise BackendError(
            f"{missing.name} is not installed", hint="pip install 'asa-engine[bench]'"
        ) from None


def _values(assessment: Assessment) -> dict[str, float] | None:
    values = {name: score.value for name, score in assessment.scores.items()}
    return values or None
