"""Chunks of any rate, dtype and channel count to float32 mono at 16 kHz."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import soxr
from numpy.typing import NDArray

from asa_engine.audio.channels import ChannelMixer
from asa_engine.errors import AudioError, UsageError

AudioChunk: TypeAlias = NDArray[Any]

SAMPLE_RATE_HZ: Final = 16_000
MIN_SAMPLE_RATE_HZ: Final = 4_000
MAX_SAMPLE_RATE_HZ: Final = 384_000
MAX_CHANNELS: Final = 32
MAX_DURATION_S: Final = 4 * 3600.0

# Float recordings may pass full scale by a few decibels; 30 dB over it means other units,
# almost always int16 values kept as float.
MAX_FLOAT_PEAK: Final = 32.0

# int16 +32767 is 0.99997 of full scale and MP3 or dither moves a rail by a few steps:
# at or above 0.998 of full scale (-0.02 dBFS) a sample counts as on the rail.
RAIL: Final = 0.998
# Bins are RAIL / 256 wide. Those below 1/8 of the rail (-18 dBFS) stay empty: flat tops that low
# do not happen, and most samples of speech lie there, so skipping them costs nothing.
LEVEL_BINS: Final = 256
FIRST_LEVEL_BIN: Final = 32

# Offset and full scale of every integer dtype taken; uint8 is WAV's 8-bit convention.
_INTEGER_SCALES: Final[dict[str, tuple[float, float]]] = {
    "uint8": (128.0, 2.0**7),
    "int16": (0.0, 2.0**15),
    "int32": (0.0, 2.0**31),
}
_FLOAT_DTYPES: Final = ("float32", "float64")
_DTYPES_TAKEN: Final = ", ".join((*_INTEGER_SCALES, *_FLOAT_DTYPES))


@dataclass(frozen=True, slots=True)
class Channels:
    """How many channels a recording has, and which of them were heard.

    Attributes:
        count: Channels of the recording.
        used_s: Seconds heard of their "mean", or of a channel by its number, from "1" on.
    """

    count: int
    used_s: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the channels as JSON values."""
        return {"count": self.count, "used_s": dict(self.used_s)}


class InputLevels:
    """Histogram of loud absolute sample values before mixing and resampling.

    Clipping has to be looked for here: mixing and resampling round off its flat tops.

    Attributes:
        counts: int64 [LEVEL_BINS + 1]; bin i < LEVEL_BINS counts samples (of all channels) with
            i <= |x| * LEVEL_BINS / RAIL < i + 1, the last bin those at or above RAIL; bins below
            FIRST_LEVEL_BIN stay 0.
        n_samples: Samples seen, of all channels and levels.
        peak: Largest absolute value so far, 1.0 being full scale.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(LEVEL_BINS + 1, np.int64)
        self.n_samples = 0
        self.peak = 0.0

    def push(self, magnitudes: NDArray[np.float32]) -> None:
        """Add samples, given as absolute values (any shape, not empty)."""
        self.n_samples += magnitudes.size
        self.peak = max(self.peak, float(magnitudes.max()))
        loud = magnitudes[magnitudes >= np.float32(FIRST_LEVEL_BIN * RAIL / LEVEL_BINS)]
        if loud.size:
            loud *= np.float32(LEVEL_BINS / RAIL)
            bins = np.minimum(loud, np.float32(LEVEL_BINS)).astype(np.intp)
            self.counts += np.bincount(bins, minlength=LEVEL_BINS + 1)


class ChunkConverter:
    """Turn chunks of one recording into float32 mono samples at 16 kHz.

    The output, joined, is bit for bit the same for every way of cutting the input. 16 kHz mono
    passes unchanged; other rates go through soxr's streaming resampler (quality HQ), and
    channels are mixed before that (`ChannelMixer`). Integers are scaled to [-1, 1); floats pass as
    they are.

    Args:
        sample_rate_hz: Rate of the chunks, 4,000 to 384,000.
        max_duration_s: Longest recording taken.

    Raises:
        AudioError: The rate is not a whole number in that range.

    Attributes:
        levels: Histogram of the input's levels.
        samples_out: 16 kHz samples returned so far.
    """

    def __init__(self, sample_rate_hz: int, *, max_duration_s: float = MAX_DURATION_S) -> None:
        self.sample_rate_hz = check_sample_rate(sample_rate_hz)
        self.levels = InputLevels()
        self.samples_out = 0
        self._max_duration_s = max_duration_s
        self._n_input = 0
        self._channels: int | None = None
        self._mixer: ChannelMixer | None = None
        self._sha256 = hashlib.sha256()
        self._closed = False
        self._resampler: soxr.ResampleStream | None = None
        if self.sample_rate_hz != SAMPLE_RATE_HZ:
            self._resampler = soxr.ResampleStream(
                self.sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ"
            )

    @property
    def channels(self) -> Channels:
        """How many channels came, and which of them were heard."""
        if self._mixer is not None:
            return Channels(self._channels or 1, self._mixer.used_s)
        return Channels(1, {"1": self.duration_s} if self._n_input else {})

    @property
    def duration_s(self) -> float:
        """Seconds of sound pushed so far."""
        return self._n_input / self.sample_rate_hz

    def sha256(self) -> str:
        """SHA-256 (hex) of the samples returned so far, as little-endian float32."""
        return self._sha256.hexdigest()

    def push(self, chunk: AudioChunk) -> NDArray[np.float32]:
        """Convert one chunk.

        Args:
            chunk: [n] or [n, channels], uint8, int16, int32, float32 or float64; n may be 0.

        Returns:
            New array, float32 [m]; the resampler holds back up to some tens of milliseconds, the
            choice between channels half a second.

        Raises:
            AudioError: Wrong dtype or shape, a NaN or infinity (the message says where), values
                far beyond full scale, another channel count than before, or too long.
            UsageError: `close` was called before.
        """
        self._check_open()
        samples = self._check_shape(chunk)
        if not samples.size:
            return np.zeros(0, np.float32)
        frames = _to_float32(samples)
        magnitudes = np.abs(frames)
        self._check_values(frames, magnitudes)
        self.levels.push(magnitudes)
        self._n_input += len(frames)
        if self.duration_s > self._max_duration_s:
            raise AudioError(
                f"the audio is longer than {self._max_duration_s:g} s",
                hint="cut it into parts, or raise the limit",
            )
        if frames.shape[1] == 1:
            return self._resampled(frames[:, 0])
        if self._mixer is None:
            self._mixer = ChannelMixer(self.sample_rate_hz, frames.shape[1])
        return self._resampled(self._mixer.push(frames))

    def close(self) -> NDArray[np.float32]:
        """End the recording and return what was held back, float32 [m].

        Raises:
            AudioError: No sample was ever pushed.
            UsageError: `close` was called before.
        """
        self._check_open()
        self._closed = True
        if not self._n_input:
            raise AudioError("the audio holds 0 samples", hint="record it again")
        mono = np.zeros(0, np.float32) if self._mixer is None else self._mixer.close()
        return self._resampled(mono, last=True)

    def _resampled(self, mono: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        if self._resampler is not None and (len(mono) or last):
            mono = self._resampler.resample_chunk(mono, last=last)
        return self._pass_on(mono)

    def _pass_on(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        self._sha256.update(samples.astype("<f4", copy=False).data)
        self.samples_out += len(samples)
        return samples

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this audio stream is already closed", hint="open a new one")

    def _check_shape(self, chunk: AudioChunk) -> NDArray[Any]:
        if not isinstance(chunk, np.ndarray):
            raise AudioError(
                f"a chunk of audio must be a NumPy array, not {type(chunk).__name__}",
                hint="numpy.frombuffer(data, numpy.int16) wraps raw 16-bit bytes",
            )
        if chunk.dtype.name not in (*_INTEGER_SCALES, *_FLOAT_DTYPES):
            raise AudioError(
                f"audio of dtype {chunk.dtype.name} is not taken",
                hint=f"use {_DTYPES_TAKEN}",
            )
        if chunk.ndim not in (1, 2):
            raise AudioError(
                f"audio of shape {list(chunk.shape)} is not taken",
                hint="use [samples] or [samples, channels]",
            )
        if not chunk.size and chunk.shape[0] == 0:
            return chunk
        channels = 1 if chunk.ndim == 1 else chunk.shape[1]
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(
                f"audio of shape {list(chunk.shape)} has {channels} channels; "
                f"1 to {MAX_CHANNELS} are taken",
                hint="the shape is [samples, channels]: transpose it if it is the other way round",
            )
        if self._channels is None:
            self._channels = channels
        elif channels != self._channels:
            raise AudioError(
                f"a chunk has {channels} channels, those before it had {self._channels}",
                hint="open a new stream when the input changes",
            )
        return chunk.reshape(-1, channels)

    def _check_values(self, frames: NDArray[np.float32], magnitudes: NDArray[np.float32]) -> None:
        # NaN fails every comparison, so one test finds NaN, infinity and wrong units.
        if bool(magnitudes.max() <= MAX_FLOAT_PEAK):
            return
        bad = np.flatnonzero(~np.isfinite(frames).all(axis=1))
        if bad.size:
            row = int(bad[0])
            value = frames[row][~np.isfinite(frames[row])][0]
            at_s = (self._n_input + row) / self.sample_rate_hz
            raise AudioError(
                f"the audio holds {'NaN' if np.isnan(value) else 'infinity'} at {at_s:.6g} s",
                hint="write the recording again without it",
            )
        raise AudioError(
            f"a float sample is {float(magnitudes.max()):.6g}; full scale is 1.0",
            hint="divide by the full scale (32768 for 16 bit), or pass integers",
        )


def check_sample_rate(sample_rate_hz: Any, name: str = "the audio") -> int:
    """Return the rate as an int, or raise AudioError naming `name`."""
    whole = (
        isinstance(sample_rate_hz, (int, float, np.integer, np.floating))
        and not isinstance(sample_rate_hz, bool)
        and MIN_SAMPLE_RATE_HZ <= sample_rate_hz <= MAX_SAMPLE_RATE_HZ
        and int(sample_rate_hz) == sample_rate_hz
    )
    if not whole:
        raise AudioError(
            f"{name}: a sample rate of {sample_rate_hz!r} Hz is not taken",
            hint=f"whole numbers from {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ} are",
        )
    return int(sample_rate_hz)


def _to_float32(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Return a fresh float32 copy: callers may reuse their capture buffer."""
    if samples.dtype.name in _FLOAT_DTYPES:
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf, refused later
            return samples.astype(np.float32)
    offset, full_scale = _INTEGER_SCALES[samples.dtype.name]
    frames = samples.astype(np.float32)
    if offset:
        frames -= np.float32(offset)
    frames *= np.float32(1.0 / full_scale)
    return frames
