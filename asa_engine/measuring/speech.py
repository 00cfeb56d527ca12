"""The recordings benchmarks run on: real speech, cut to exact lengths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from asa_engine.audio import SAMPLE_RATE_HZ, open_audio
from asa_engine.errors import UsageError
from asa_engine.evaluation.manifest import Utterance, read_manifest
from asa_engine.evaluation.splits import dev_split

__all__ = ["Speech", "Wanted", "find_source", "prepare_speech", "read_samples", "samples_in_memory"]

_CORPUS = Path("data/speechocean762/train.jsonl")
_DEMO = Path("examples/audio/demo.flac")


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much speech a run needs.

    Attributes:
        clip_seconds: Lengths of the clips.
        batch_size: Recordings in the Offline scenario.
        batch_clip_s: Length of each of them.
        drift_recordings: How many recordings of a manifest to compare scores on.
    """

    clip_seconds: Sequence[float]
    batch_size: int
    batch_clip_s: float
    drift_recordings: int


@dataclass(frozen=True, slots=True)
class Speech:
    """Recordings on disk, 16 kHz mono FLAC.

    Attributes:
        source: Where they come from, one line for the result.
        clips: Length in seconds -> a clip of exactly that length.
        batch: Recordings of the Offline scenario.
        batch_s: Their total length in seconds.
        drift: Recordings that scores are compared on.
    """

    source: str
    clips: dict[float, Path]
    batch: tuple[Path, ...]
    batch_s: float
    drift: tuple[Path, ...]


def find_source() -> Path:
    """Return the corpus manifest if it is at hand, else the demo recording.

    The corpus is looked for in the folder that ASA_SHARED names, else in ../shared.

    Raises:
        UsageError: Neither is there.
    """
    corpus = Path(os.environ.get("ASA_SHARED", "../shared")) / _CORPUS
    for path in (corpus, _DEMO):
        if path.is_file():
            return path
    raise UsageError(
        "there is no speech to benchmark on",
        hint="pass --data with a manifest or a recording, or run in a checkout of the project",
    )


def prepare_speech(source: Path, folder: Path, wanted: Wanted) -> Speech:
    """Write the recordings of one run into `folder`.

    Args:
        source: A manifest (.jsonl) or one recording.
        folder: Where to write; exists.
        wanted: How much.

    Raises:
        ManifestError: The manifest cannot be used.
        AudioError: A recording cannot be read.
    """
    make = _from_manifest if source.suffix == ".jsonl" else _from_recording
    return make(source, folder, wanted)


def _from_manifest(manifest: Path, folder: Path, wanted: Wanted) -> Speech:
    """Join recordings of one dev speaker into each clip; compare scores on whole recordings."""
    utterances = read_manifest(manifest)
    dev = dev_split(utterances)[1] or utterances
    speakers: dict[str, list[Utterance]] = {}
    for utterance in dev:
        speakers.setdefault(utterance.speaker, []).append(utterance)
    first, *others = speakers
    clips = {
        seconds: _write_clip(
            folder / f"clip_{seconds:g}s.flac", _audio_of(speakers[first]), seconds
        )
        for seconds in wanted.clip_seconds
    }
    order = cycle([*others, first])
    batch = tuple(
        _write_clip(
            folder / f"batch_{i}.flac", _audio_of(speakers[next(order)]), wanted.batch_clip_s
        )
        for i in range(wanted.batch_size)
    )
    step = max(1, len(dev) // wanted.drift_recordings)
    drift = tuple(utterance.audio for utterance in dev[::step][: wanted.drift_recordings])
    return Speech(
        source=f"{manifest.parent.name}: recordings of one speaker joined into each clip; "
        f"{len(drift)} whole recordings of {len(speakers)} dev speakers to compare scores on",
        clips=clips,
        batch=batch,
        batch_s=wanted.batch_size * wanted.batch_clip_s,
        drift=drift,
    )


def _from_recording(recording: Path, folder: Path, wanted: Wanted) -> Speech:
    """Repeat one recording into each clip; compare scores on the clips."""
    clips = {
        seconds: _write_clip(folder / f"clip_{seconds:g}s.flac", [recording], seconds)
        for seconds in wanted.clip_seconds
    }
    batch = tuple(
        _write_clip(folder / f"batch_{i}.flac", [recording], wanted.batch_clip_s)
        for i in range(wanted.batch_size)
    )
    return Speech(
        source=f"{recording.name}, one recording, repeated to the length of each clip",
        clips=clips,
        batch=batch,
        batch_s=wanted.batch_size * wanted.batch_clip_s,
        drift=(recording, *clips.values()),
    )


def _audio_of(utterances: Iterable[Utterance]) -> list[Path]:
    return [utterance.audio for utterance in utterances]


def _write_clip(target: Path, recordings: Sequence[Path], seconds: float) -> Path:
    """Play recordings back to back, from the first again where they run out, for `seconds`."""
    wanted = round(seconds * SAMPLE_RATE_HZ)
    pieces: list[NDArray[np.float32]] = []
    missing = wanted
    for samples in _played(recordings):
        pieces.append(samples[:missing])
        missing -= pieces[-1].size
        if missing == 0:
            break
    soundfile.write(target, np.concatenate(pieces), SAMPLE_RATE_HZ, subtype="PCM_16")
    return target


def _played(recordings: Sequence[Path]) -> Iterator[NDArray[np.float32]]:
    for recording in cycle(recordings):
        yield samples_in_memory(recording)


@cache
def samples_in_memory(recording: Path) -> NDArray[np.float32]:
    """Return `read_samples`, decoded once and kept."""
    return read_samples(recording)


def read_samples(recording: Path) -> NDArray[np.float32]:
    """Return a recording as float32 [n], 16 kHz mono.

    Raises:
        UsageError: It holds no samples.
    """
    with open_audio(recording) as audio:
        converter = audio.converter()
        blocks = [converter.push(block) for block in audio.blocks()]
        samples = np.concatenate([*blocks, converter.close()])
    if not samples.size:
        raise UsageError(f"{recording} holds no samples")
    return samples
