"""Recordings to calibrate and to compare on: a manifest's, or synthetic ones where there is none.

Synthetic speech exercises every part of a graph and shows whether an export is broken. It has no
expert scores, and what it says of drift on real speech is only indicative.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio import SAMPLE_RATE_HZ, read_audio
from asa_engine.audio.intake import heard_samples
from asa_engine.errors import ManifestError
from asa_engine.evaluation.manifest import Utterance, read_manifest
from asa_engine.evaluation.sessions import Session, holds_sessions, played, read_sessions
from asa_engine.evaluation.splits import dev_split, session_split

__all__ = [
    "Recording",
    "Response",
    "Speech",
    "manifest_recordings",
    "manifest_speech",
    "synthetic_recordings",
    "synthetic_speech",
]

_T = TypeVar("_T")
_SYNTHETIC_SEED = 762
_SYNTHETIC_DURATIONS_S = (1.1, 1.7, 2.4, 3.0, 3.9, 4.0, 4.3, 5.2, 6.5, 8.0, 9.7, 12.1)
# First three formants (Hz) of five vowels, near the published averages of adult speakers.
_FORMANTS_HZ = np.array(
    [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (640, 1190, 2390)]
)
_FORMANT_WIDTH_HZ = 110.0


Response = tuple[str, tuple[Path, ...] | NDArray[np.float32]]
"""A part, and the recordings played one after another in it, or their samples."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording, or a session of them, and, where known, the experts' scores.

    Attributes:
        id: Its name.
        source: A file, float32 samples at 16 kHz [n], or the responses of a session.
        scores: Score name -> the experts' score.
        texts: "text" and "prompt" of the request, where known.
        front: What stands between it and the grader, as in the grader's configuration.
    """

    id: str
    source: Path | NDArray[np.float32] | tuple[Response, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    front: int = 0

    def samples(self) -> NDArray[np.float32]:
        """Return what the grader hears, float32 mono at 16 kHz [n]; response after response.

        Raises:
            AudioError: A file cannot be read.
        """
        return np.concatenate([samples for _, samples in self.responses()])

    def responses(self) -> list[tuple[str, NDArray[np.float32]]]:
        """Return the part and the samples of each response; a recording is one, of no part.

        Where the front finds no speech, as in what is synthetic, the grader hears all of it.

        Raises:
            AudioError: A file cannot be read.
        """
        said = self._recorded()
        if not self.front:
            return said
        heard = [(part, heard_samples(samples, self.front)) for part, samples in said]
        return [new if new[1].size else old for new, old in zip(heard, said, strict=True)]

    def _recorded(self) -> list[tuple[str, NDArray[np.float32]]]:
        if isinstance(self.source, Path):
            return [("", read_audio(self.source))]
        if isinstance(self.source, np.ndarray):
            return [("", self.source)]
        return [
            (part, np.concatenate(list(played(source))) if isinstance(source, tuple) else source)
            for part, source in self.source
        ]


@dataclass(frozen=True, slots=True)
class Speech:
    """What an export is calibrated and judged on.

    Attributes:
        description: Where it comes from, one line for the report.
        calibration: Recordings that int8 ranges and rounding are fitted to.
        judging: Recordings that scores are compared on; none of the former.
    """

    description: str
    calibration: Sequence[Recording]
    judging: Sequence[Recording]

    def heard(self, front: int) -> Speech:
        """Return the same behind a grader's front."""
        calibration, judging = (
            [replace(recording, front=front) for recording in side]
            for side in (self.calibration, self.judging)
        )
        return replace(self, calibration=calibration, judging=judging)


def manifest_speech(path: Path, *, calibrate: int, limit: int | None = None) -> Speech:
    """Split a manifest: held-out speakers judge, the others calibrate.

    Who is held out follows `asa_engine.evaluation.splits`; where it leaves a side empty, every
    other recording calibrates.

    Args:
        path: The manifest, of recordings or of sessions.
        calibrate: Calibrate with at most so many recordings, spread evenly.
        limit: Judge on at most so many recordings, spread evenly.

    Raises:
        ManifestError: It cannot be used, or holds fewer than two recordings.
    """
    if holds_sessions(path):
        return _session_speech(path, calibrate, limit)
    utterances = read_manifest(path)
    if len(utterances) < 2:
        raise ManifestError(f"{path} holds one recording; two are needed")
    try:
        rest, judging = dev_split(utterances)
        how = "the held-out speakers"
    except ManifestError:
        rest = judging = []
    if not rest or not judging:
        rest, judging = utterances[::2], utterances[1::2]
        how = "every other recording"
    judged = _spread(judging, limit)
    return Speech(
        description=f"{len(judged)} recordings of {path.name}: {how}, calibrated on others",
        calibration=[_recording(u) for u in _spread(rest, calibrate)],
        judging=[_recording(u) for u in judged],
    )


def manifest_recordings(path: Path, *, dev: bool = False, limit: int | None = None) -> Speech:
    """Return a manifest's recordings, or sessions, to compare on.

    Args:
        path: The manifest.
        dev: Only held-out speakers.
        limit: Only the first so many.

    Raises:
        ManifestError: It cannot be used.
    """
    if holds_sessions(path):
        sessions = read_sessions(path)
        if dev:
            sessions = session_split(sessions)[1]
        judging = [_of_session(session) for session in sessions[:limit]]
    else:
        utterances = read_manifest(path)
        if dev:
            utterances = dev_split(utterances)[1]
        judging = [_recording(utterance) for utterance in utterances[:limit]]
    what = "sessions" if holds_sessions(path) else "recordings"
    return Speech(f"{len(judging)} {what} of {path.name}", [], judging)


def synthetic_speech(parts: Sequence[str] = ()) -> Speech:
    """Return built-in synthetic recordings, for exports without data at hand.

    Args:
        parts: Of sessions, for graders of those: every session has a response a part.
    """
    judging = synthetic_recordings()
    calibration = synthetic_recordings(seed=_SYNTHETIC_SEED + 1)
    if parts:
        judging, calibration = (_as_sessions(some, parts) for some in (judging, calibration))
    return Speech(
        description=f"{len(judging)} synthetic {'sessions' if parts else 'recordings'}, which show "
        "whether an export is broken but not how it drifts on real speech",
        calibration=calibration,
        judging=judging,
    )


def _as_sessions(recordings: Sequence[Recording], parts: Sequence[str]) -> list[Recording]:
    """Make two sessions of recordings, the second the other way round."""
    said = [recording.samples() for recording in recordings]
    return [
        Recording(
            f"synthetic-session-{index}",
            tuple((part, order[n % len(order)]) for n, part in enumerate(parts)),
        )
        for index, order in enumerate((said, said[::-1]))
    ]


def synthetic_recordings(seed: int = _SYNTHETIC_SEED) -> list[Recording]:
    """Make speech-like recordings: voiced syllables under gliding formants, hisses, pauses."""
    rng = np.random.default_rng(seed)
    return [
        Recording(f"synthetic-{index}", _babble(rng, duration_s))
        for index, duration_s in enumerate(_SYNTHETIC_DURATIONS_S)
    ]


def _session_speech(path: Path, calibrate: int, limit: int | None) -> Speech:
    rest, judging = session_split(read_sessions(path))
    if not rest or not judging:
        raise ManifestError(
            f"{path} has no session to {'judge' if rest else 'calibrate'} on",
            hint="sessions of held-out speakers judge, others calibrate; give every line a split",
        )
    judged = _spread(judging, limit)
    return Speech(
        description=f"{len(judged)} sessions of {path.name}: the held-out speakers, "
        "calibrated on others",
        calibration=[_of_session(session) for session in _spread(rest, calibrate)],
        judging=[_of_session(session) for session in judged],
    )


def _of_session(session: Session) -> Recording:
    responses = tuple(
        (part.name, recordings) for part in session.parts for recordings in part.responses
    )
    return Recording(session.name, responses, session.scores)


def _recording(utterance: Utterance) -> Recording:
    return Recording(utterance.id, utterance.audio, utterance.scores, utterance.texts)


def _spread(items: Sequence[_T], most: int | None) -> list[_T]:
    if most is None or len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]


def _babble(rng: np.random.Generator, duration_s: float) -> NDArray[np.float32]:
    samples = round(duration_s * SAMPLE_RATE_HZ)
    pitch_hz, rate = rng.uniform(90, 280), rng.uniform(2.5, 5.0)
    out = np.concatenate(list(_syllables(rng, samples, pitch_hz, rate)))[:samples]
    out *= 10 ** (rng.uniform(-32, -18) / 20) / np.sqrt(np.mean(out**2))
    noise = 10 ** (rng.uniform(-70, -50) / 20) * rng.standard_normal(samples)
    return np.clip(out + noise, -1, 1).astype(np.float32)


def _syllables(
    rng: np.random.Generator, samples: int, pitch_hz: float, rate: float
) -> Iterator[NDArray[np.float64]]:
    made = 0
    while made < samples:
        kind = rng.choice(["vowel", "hiss", "pause"], p=[0.6, 0.25, 0.15])
        size = int(SAMPLE_RATE_HZ / rate * rng.uniform(0.6, 1.4))
        if kind == "vowel" or not made:
            part = _vowel(rng, size, pitch_hz * rng.uniform(0.85, 1.2))
        elif kind == "hiss":
            part = 0.2 * np.diff(rng.standard_normal(size + 1)) * np.hanning(size)
        else:
            part = np.zeros(size)
        made += size
        yield part


def _vowel(rng: np.random.Generator, size: int, pitch_hz: float) -> NDArray[np.float64]:
    glide = np.linspace(0, 1, size)
    start, end = _FORMANTS_HZ[rng.integers(0, len(_FORMANTS_HZ), 2)]
    formants = start[:, None] + (end - start)[:, None] * glide
    pitch = pitch_hz * (1.1 - 0.2 * glide)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ
    out = np.zeros(size)
    for harmonic in range(1, int(4000 / pitch_hz)):
        nearness = ((harmonic * pitch - formants) / _FORMANT_WIDTH_HZ) ** 2
        out += (1 / (1 + nearness)).sum(axis=0) * np.sin(harmonic * phase) / harmonic**0.5
    return out * np.hanning(size)
