"""What Whisper hears of a corpus, computed once and kept in the work folder, shard by shard.

A shard is whole or absent, so a run that was killed goes on where it stood.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from asa_engine.audio.intake import heard_samples
from asa_engine.files import atomic_write
from asa_engine.graders.pronunciation.config import PronunciationConfig
from asa_engine.graders.pronunciation.describe import frame_levels
from asa_engine.graders.pronunciation.measures import Array, Forced
from asa_engine.graders.pronunciation.plan import tokens_of
from asa_engine.graders.pronunciation.stages import Stages, Written
from asa_engine.graders.windows import log_mel_windows

__all__ = ["Sound", "Writing", "hear", "listen", "write_texts"]

SHARD = 100
_LEAST_SAMPLES = 1600


@dataclass(frozen=True)
class Sound:
    """A recording as the encoder heard it.

    Attributes:
        frames: Of the last two layers side by side, float16 [T, 2 D].
        moments: Of every layer sum of h, then of every layer sum of h^2, float64.
        levels: Of each frame, dB, [T].
    """

    frames: NDArray[np.float16]
    moments: NDArray[np.float64]
    levels: Array


@dataclass(frozen=True)
class Writing:
    """A text that the decoder was made to write over a recording, and over silence."""

    written: Written
    quiet: Array
    owners: NDArray[np.int64]

    def forced(self) -> Forced:
        """Return it as the measures take it."""
        w = self.written
        return Forced(
            own=w.own,
            best=w.best,
            rank=w.rank,
            entropy=w.entropy,
            quiet=self.quiet,
            attended=w.attended.astype(np.float32),
            att_entropy=w.att_entropy,
            att_peak=w.att_peak,
            owners=self.owners,
        )


def hear(stages: Stages, config: PronunciationConfig, samples: Array) -> Sound | None:
    """Encode a recording behind the front; `None` if there is nothing to be heard."""
    kept = heard_samples(samples, config.front)
    windows = log_mel_windows(config)
    mels = windows.push(kept)
    if (rest := windows.finish()) is not None:
        mels.append(rest)
    if not mels or len(kept) < _LEAST_SAMPLES:
        return None
    encoded = [stages.encode(mel) for mel in mels]
    frames = np.concatenate([one.frames for one in encoded])
    moments = np.sum([one.moments.astype(np.float64) for one in encoded], axis=0)
    return Sound(frames.astype(np.float16), moments, frame_levels(kept, len(frames)))


def listen(
    work: Path,
    name: str,
    recordings: Sequence[Callable[[], Array]],
    stages: Stages,
    config: PronunciationConfig,
) -> list[Sound | None]:
    """Hear recordings, or read what was heard of them before.

    Args:
        work: Folder of the run.
        name: Of the shards.
        recordings: Return the samples, float32 [n] at 16 kHz.
        stages: What they are heard with.
        config: The grader's configuration.
    """

    def fresh(some: range) -> list[Sound | None]:
        return [hear(stages, config, recordings[i]()) for i in some]

    found: list[Sound | None] = []
    for path, some in _shards(work, name, len(recordings)):
        if not path.is_file():
            _write_sounds(path, fresh(some))
        found += _read_sounds(path)
    return found


def write_texts(
    work: Path,
    name: str,
    sounds: Sequence[Sound | None],
    texts: Sequence[Sequence[str]],
    stages: Stages,
    quiet: Sequence[Array | None] = (),
) -> list[Writing | None]:
    """Write texts over sounds, or read what was written before.

    Args:
        work: Folder of the run.
        name: Of the shards.
        sounds: What was heard.
        texts: Spoken words of each.
        stages: What writes.
        quiet: What the same texts got over silence, where that is known.
    """
    found: list[Writing | None] = []
    for path, some in _shards(work, name, len(sounds)):
        if not path.is_file():
            written = [
                _writing(stages, sounds[i], texts[i], quiet[i] if quiet else None) for i in some
            ]
            _write_writings(path, written)
        found += _read_writings(path)
    return found


def _writing(
    stages: Stages, sound: Sound | None, words: Sequence[str], quiet: Array | None
) -> Writing | None:
    if sound is None:
        return None
    tokens, owners = tokens_of(stages.vocabulary, words)
    width = sound.frames.shape[1] // 2
    written = stages.write(sound.frames[:, width:].astype(np.float32), tokens)
    return Writing(written, stages.write_quiet(tokens) if quiet is None else quiet, owners)


def _shards(work: Path, name: str, count: int) -> Iterator[tuple[Path, range]]:
    starts = range(0, count, SHARD)
    for number, start in enumerate(tqdm(starts, desc=name, unit="", leave=False)):
        yield work / f"{name}-{number:03d}.npz", range(start, min(start + SHARD, count))


def _write_sounds(path: Path, sounds: Sequence[Sound | None]) -> None:
    known = [sound for sound in sounds if sound is not None]
    _save(
        path,
        lengths=np.array([0 if sound is None else len(sound.frames) for sound in sounds]),
        frames=np.concatenate([sound.frames for sound in known]),
        moments=np.stack([sound.moments for sound in known]),
        levels=np.concatenate([sound.levels for sound in known]),
    )


def _read_sounds(path: Path) -> list[Sound | None]:
    with np.load(path, allow_pickle=False) as file:
        lengths, frames, levels = file["lengths"], file["frames"], file["levels"]
        moments = iter(file["moments"])
    ends = np.cumsum(lengths)
    return [
        Sound(frames[end - length : end], next(moments), levels[end - length : end])
        if length
        else None
        for length, end in zip(lengths.tolist(), ends.tolist(), strict=True)
    ]


_ROWS = ("own", "best", "rank", "entropy", "other", "att_entropy", "att_peak")


def _write_writings(path: Path, writings: Sequence[Writing | None]) -> None:
    known = [writing for writing in writings if writing is not None]
    rows = {name: np.concatenate([getattr(w.written, name) for w in known]) for name in _ROWS}
    _save(
        path,
        lengths=np.array([0 if w is None else len(w.quiet) for w in writings]),
        widths=np.array([0 if w is None else w.written.attended.shape[1] for w in writings]),
        attended=np.concatenate([w.written.attended.ravel().astype(np.float16) for w in known]),
        quiet=np.concatenate([w.quiet for w in known]),
        owners=np.concatenate([w.owners for w in known]),
        **rows,
    )


def _read_writings(path: Path) -> list[Writing | None]:
    with np.load(path, allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    found: list[Writing | None] = []
    at = tokens = cells = 0
    for length, width in zip(held["lengths"].tolist(), held["widths"].tolist(), strict=True):
        if not length:
            found.append(None)
            continue
        part = slice(at, at + length)
        attended = held["attended"][cells : cells + length * width].reshape(length, width)
        rows = {name: held[name][part] for name in _ROWS}
        owners = held["owners"][tokens : tokens + length - 1]
        found.append(Writing(Written(attended=attended, **rows), held["quiet"][part], owners))
        at, tokens, cells = at + length, tokens + length - 1, cells + length * width
    return found


def _save(path: Path, **arrays: Any) -> None:
    held = io.BytesIO()
    np.savez(held, **arrays)
    atomic_write(path, held.getvalue())
