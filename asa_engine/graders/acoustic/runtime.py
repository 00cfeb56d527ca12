"""The acoustic grader at run time: windows in, pooled statistics summed, scores out.

Every closed window is encoded once and never looked at again. What a recording leaves behind is
one vector of sums, so memory does not grow with its length, and the way the audio was chunked
cannot change a score.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Grade, Prior
from asa_engine.graders.acoustic.backends.base import Backend, DeviceBackend, HeadOutput
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.windows import WindowedRun, log_mel_windows
from asa_engine.profiling import StageClock
from asa_engine.request import Request

__all__ = ["AcousticRun"]

SAMPLE_RATE_HZ = 16_000
FRAME_RATE_HZ = 50.0
_NO_TEXTS = Request()


class AcousticRun(WindowedRun):
    """Scores one recording as its samples arrive.

    Args:
        config: The grader's configuration.
        backend: Where encoder and head run.
        clock: Collects `features`, `encoder` and `head` times.
        request: Texts of the request; this grader uses none.
        keep_frames: Keep the encoder frames of every window (for `Engine.embed`).
    """

    frame_rate_hz = FRAME_RATE_HZ

    def __init__(
        self,
        config: AcousticConfig,
        backend: Backend,
        clock: StageClock,
        request: Request = _NO_TEXTS,
        *,
        keep_frames: bool = False,
    ) -> None:
        self._config = config
        self._backend = backend
        self._clock = clock
        self._keep_frames = keep_frames
        self._mel = log_mel_windows(config, padded=config.window_padding == "full")
        self._stats: NDArray[np.float64] | None = None
        self._samples = 0
        self._encoded_samples = 0
        self._output: HeadOutput | None = None
        self._provisional: Grade | None = None
        self.frames: list[NDArray[np.float32]] = []

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz; encode every window they close."""
        self._samples += samples.size
        self._hear(samples)

    def provisional(self) -> Grade | None:
        """Return the scores of the closed windows, or `None` before the first one closes."""
        if self._provisional is None and self._stats is not None:
            self._provisional = self._grade(self._stats, self._encoded_samples)
        return self._provisional

    def finish(self) -> Grade | None:
        """Encode what is left and return the final scores; `None` if no window could be framed."""
        self._hear_rest()
        if self._stats is None:
            return None
        return self._grade(self._stats, self._samples)

    def _take(self, mel: NDArray[np.float32]) -> None:
        with self._clock.scope("encoder", frames=mel.shape[1]):
            if isinstance(self._backend, DeviceBackend):
                encoded = self._backend.encode_next(mel, self._stats, frames=self._keep_frames)
            else:
                encoded = self._backend.encode(mel, frames=self._keep_frames)
        if encoded.frames is not None:
            self.frames.append(encoded.frames)
        # float64 sums: the order of windows is fixed, and hours of them lose nothing.
        stats = encoded.stats.astype(np.float64)
        self._stats = stats if self._stats is None else self._stats + stats
        heard = self._encoded_samples + self._config.window_samples
        self._encoded_samples = min(heard, self._samples)
        self._output = encoded.output
        self._provisional = None

    def _grade(self, stats: NDArray[np.float64], samples: int) -> Grade:
        with self._clock.scope("head"):
            output = self._output or self._backend.head(stats.astype(np.float32))
        return _grade_from(output, self._config, samples / SAMPLE_RATE_HZ)


def _grade_from(output: HeadOutput, config: AcousticConfig, duration_s: float) -> Grade:
    scores = {
        aspect.name: aspect.score(value, duration_s=duration_s)
        for aspect, value in zip(config.aspects, output.scores.tolist(), strict=True)
    }
    prior = Prior(tuple(config.prior_levels), tuple(output.prior.tolist()))
    return Grade(scores, prior)
