"""Many channels to one: they are looked at before they are mixed.

A mean loses a recording whose second channel is inverted, halves one whose second channel is
silent, and adds the noise of a channel that holds nothing else. So the mean is used while it
carries the speech, and otherwise the channel that does. It is decided for half a second at a time,
counted from the first sample, and so is the same for every way of cutting the input.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MEAN", "ChannelMixer"]

MEAN: Final = "mean"

SEGMENT_S: Final = 0.512
FRAME_S: Final = 0.032
FADE_S: Final = 0.02  # from one choice to the next

# What rises this far (9 dB) over a channel's quietest frame so far is taken for sound that comes
# and goes, as speech does; steady noise and hum do not.
_RISE: Final = 8.0
_LEAST_POWER: Final = 1e-8  # -80 dBFS: dither moves nothing
# The mean of equal channels keeps all of their power, of unrelated ones half, of one beside a
# silent one a quarter.
_KEPT_SHARE: Final = 0.5
# Less than a tenth is left of the loudest: the channels cancel one another.
_CANCELLED_SHARE: Final = 0.1
_EQUAL_SHARE: Final = 0.8  # within 1 dB the first channel is as good as the loudest


class ChannelMixer:
    """Mix the channels of one recording.

    Args:
        sample_rate_hz: Rate of the frames.
        channels: How many there are, at least 2.
    """

    def __init__(self, sample_rate_hz: int, channels: int) -> None:
        self._rate_hz = sample_rate_hz
        self._frame = max(1, int(FRAME_S * sample_rate_hz))
        self._segment = self._frame * round(SEGMENT_S / FRAME_S)
        self._fade = max(1, int(FADE_S * sample_rate_hz))
        self._held: list[NDArray[np.float32]] = []
        self._n_held = 0
        self._floors = np.full(1 + channels, np.inf)
        self._choice = 0  # 0 is the mean, i is channel i
        self._used = np.zeros(1 + channels, np.int64)

    @property
    def used_s(self) -> dict[str, float]:
        """Seconds of the output that came from the mean or from a channel, by its number."""
        names = (MEAN, *map(str, range(1, len(self._used))))
        return {
            name: float(n / self._rate_hz) for name, n in zip(names, self._used, strict=True) if n
        }

    def push(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mix what completes a segment; the rest is held back.

        Args:
            frames: float32 [n, channels].

        Returns:
            float32 [m].
        """
        done = []
        while len(frames):
            taken = frames[: self._segment - self._n_held]
            self._held.append(taken)
            self._n_held += len(taken)
            frames = frames[len(taken) :]
            if self._n_held == self._segment:
                done.append(self.close())
        return np.concatenate(done) if done else np.zeros(0, np.float32)

    def close(self) -> NDArray[np.float32]:
        """Mix what was held back, float32 [m]."""
        if not self._n_held:
            return np.zeros(0, np.float32)
        frames = np.concatenate(self._held)
        self._held, self._n_held = [], 0
        mean = _mean(frames)
        before, self._choice = self._choice, self._choose(frames, mean)
        self._used[self._choice] += len(frames)
        out = _chosen(frames, mean, self._choice)
        if before != self._choice and self._used.sum() > len(frames):
            old = _chosen(frames[: self._fade], mean[: self._fade], before)
            share = np.arange(len(old), dtype=np.float32) / np.float32(self._fade)
            out = out.copy()
            out[: len(old)] = share * out[: len(old)] + (1 - share) * old
        return out

    def _choose(self, frames: NDArray[np.float32], mean: NDArray[np.float32]) -> int:
        powers = _frame_powers(np.column_stack([mean, frames]), self._frame)
        self._floors = np.minimum(self._floors, powers.min(axis=0))
        over = np.where(powers > _RISE * self._floors + _LEAST_POWER, powers, 0).sum(axis=0)
        share = _KEPT_SHARE
        if not over.any():
            over, share = powers.sum(axis=0), _CANCELLED_SHARE
        loudest = float(over[1:].max())
        if over[self._choice] >= share * loudest:
            return self._choice
        if over[0] >= share * loudest:
            return 0
        return 1 + int(np.argmax(over[1:] >= _EQUAL_SHARE * loudest))


def _frame_powers(signals: NDArray[np.float32], frame: int) -> NDArray[np.float64]:
    """Return the power of each frame without its offset, [frames, signals]; at least one frame."""
    frame = min(frame, len(signals))
    whole = signals[: len(signals) // frame * frame].reshape(-1, frame, signals.shape[1])
    powers: NDArray[np.float64] = whole.astype(np.float64).var(axis=1)
    return powers


def _chosen(
    frames: NDArray[np.float32], mean: NDArray[np.float32], choice: int
) -> NDArray[np.float32]:
    return mean if choice == 0 else np.ascontiguousarray(frames[:, choice - 1])


def _mean(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average channels, adding them in order: NumPy's own mean may group by shape."""
    channels = frames.shape[1]
    mono = frames[:, 0] + frames[:, 1]
    for channel in range(2, channels):
        mono += frames[:, channel]
    mono /= np.float32(channels)
    return mono
