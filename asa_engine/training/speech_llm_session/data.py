"""Sessions to train on: what was heard of each speaker's recordings, laid out anew at every step.

A hundred speakers make a hundred sessions. Any share of a speaker's recordings, shuffled over the
parts, is a session, too: its parts' scores are the means of its recordings'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from asa_engine.errors import CheckpointError, ManifestError
from asa_engine.evaluation.sessions import Session, played
from asa_engine.files import atomic_write
from asa_engine.graders.speech_llm_session.config import OVERALL
from asa_engine.graders.speech_llm_session.model import Heard, SessionLLM

__all__ = ["Example", "Speaker", "load_speakers", "shuffled"]

Recordings = tuple[Path, ...]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Example:
    """A session, ready for the language model.

    Attributes:
        responses: Part -> audio tokens [n, W] of each of its responses.
        mean: Mean last-layer frame of all its audio, float32 [D].
        targets: Scores of the parts, in order, then overall, float32 [A]; NaN for a part left out.
    """

    responses: Mapping[str, Sequence[Tensor]]
    mean: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Speaker:
    """Who spoke a session.

    Attributes:
        name: Of the session.
        session: Its recordings, part by part.
        heard: What was heard of each response and, for a training speaker, each recording alone.
        scores: Score of each recording that is trained on; empty for a held-out speaker.
        whole: The session as it is; its targets are the experts' scores of the manifest.
    """

    name: str
    session: Session
    heard: Mapping[Recordings, Heard]
    scores: Mapping[Path, float]
    whole: Example


def load_speakers(
    sides: tuple[Sequence[Session], Sequence[Session]],
    scores: Mapping[Path, float],
    grader: SessionLLM,
    folder: Path,
) -> tuple[list[Speaker], list[Speaker]]:
    """Hear every session; what was heard is kept in `folder`, a file a speaker.

    Args:
        sides: Training sessions and held-out ones, with the experts' scores of each part and
            overall.
        scores: Score of each recording of the train side.
        grader: Encodes and projects.
        folder: Where it is kept; what is there already is read.

    Returns:
        Training speakers, and those held out.

    Raises:
        ManifestError: A session has no score for a part, a recording of a training session is not
            on the manifest's train side, or one of a held-out session is.
        CheckpointError: What was kept is damaged.
    """
    folder.mkdir(exist_ok=True)
    found: tuple[list[Speaker], list[Speaker]] = ([], [])
    sessions = [(session, dev) for dev, side in enumerate(sides) for session in side]
    for session, dev in sessions:
        _check(session, scores, dev=bool(dev))
    for session, dev in tqdm(sessions, desc="sessions", unit="", leave=False):
        wanted = {response for part in session.parts for response in part.responses}
        if not dev:
            wanted |= {(path,) for response in wanted for path in response}
        heard = _hear(sorted(wanted), grader, folder / f"{session.name}.safetensors")
        # In an order of their own: chance draws from it.
        alone = sorted(path for (path, *rest) in wanted if not rest)
        own = {} if dev else {path: scores[path] for path in alone}
        found[dev].append(Speaker(session.name, session, heard, own, _whole(session, heard)))
    return found


def shuffled(
    speaker: Speaker, share: float, missing: float, rng: Generator, *, mixed: bool = True
) -> Example:
    """Make a session of a share of a training speaker's recordings.

    Args:
        speaker: Whose.
        share: Of each part's responses, and of each response's recordings, that it keeps, at
            least one.
        missing: Probability that a part is left out; never all of them.
        rng: Chance.
        mixed: Shuffle the recordings over the parts; else each stays in its part, in order.
    """
    order = iter(rng.permutation(np.array(list(speaker.scores), dtype=object)).tolist())
    parts = speaker.session.parts
    left_out = rng.random(len(parts)) < missing
    if left_out.all():
        left_out[rng.integers(len(parts))] = False
    responses: dict[str, list[Tensor]] = {}
    targets, heard = [], []
    for part, out in zip(parts, left_out.tolist(), strict=True):
        if mixed:
            some = part.responses[: _kept(len(part.responses), share)]
            chosen = [[next(order) for _ in range(_kept(len(r), share))] for r in some]
        else:
            chosen = [list(_some(r, share, rng)) for r in _some(part.responses, share, rng)]
        if out:
            targets.append(np.nan)
            continue
        sessions = [[speaker.heard[(path,)] for path in response] for response in chosen]
        responses[part.name] = [
            torch.cat([h.tokens for h in response]).float() for response in sessions
        ]
        heard += [h for response in sessions for h in response]
        said = [speaker.scores[path] for response in chosen for path in response]
        targets.append(float(np.mean(said)))
    return Example(responses, _mean(heard), _with_overall(targets))


def _some(items: Sequence[_T], share: float, rng: Generator) -> Iterator[_T]:
    """Yield a share of items, at least one, in order."""
    chosen = rng.permutation(len(items))[: _kept(len(items), share)]
    yield from (items[i] for i in sorted(chosen.tolist()))


def _check(session: Session, scores: Mapping[Path, float], *, dev: bool) -> None:
    for part in session.parts:
        for path in (path for response in part.responses for path in response):
            if (path in scores) == dev:
                raise ManifestError(
                    f"{path.name} is of the {'dev' if dev else 'training'} session {session.name}, "
                    f"and {'' if dev else 'not '}on the manifest's train side",
                    hint="sessions and manifest must hold the same speakers out",
                )


def _kept(count: int, share: float) -> int:
    return max(1, round(share * count))


def _mean(heard: Sequence[Heard]) -> Tensor:
    total = torch.stack([item.total for item in heard]).sum(0)
    return (total / sum(item.frames for item in heard)).float()


def _with_overall(targets: Sequence[float]) -> Tensor:
    return torch.tensor([*targets, np.nanmean(targets)], dtype=torch.float32)


def _whole(session: Session, heard: Mapping[Recordings, Heard]) -> Example:
    names = [part.name for part in session.parts]
    if lacking := [name for name in (*names, OVERALL) if name not in session.scores]:
        raise ManifestError(f"session {session.name} has no score {lacking[0]!r}")
    return Example(
        {
            p.name: [heard[response].tokens.float() for response in p.responses]
            for p in session.parts
        },
        _mean([heard[response] for part in session.parts for response in part.responses]),
        torch.tensor([session.scores[name] for name in (*names, OVERALL)]),
    )


def _hear(wanted: Sequence[Recordings], grader: SessionLLM, path: Path) -> dict[Recordings, Heard]:
    names = {"+".join(item.stem for item in recordings): recordings for recordings in wanted}
    if not path.is_file():
        tensors: dict[str, Tensor] = {}
        for name, recordings in names.items():
            response = grader.hear(_samples(recordings))
            if response is None:
                raise ManifestError(f"{recordings[0]} is too short to be trained on")
            tensors[f"{name}/tokens"] = response.tokens.half()
            tensors[f"{name}/total"] = response.total
            tensors[f"{name}/frames"] = torch.tensor(response.frames)
        atomic_write(path, save(tensors))
    try:
        stored = load_file(path)
        return {
            recordings: Heard(
                stored[f"{name}/tokens"], stored[f"{name}/total"], int(stored[f"{name}/frames"])
            )
            for name, recordings in names.items()
        }
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error}", hint="start anew with --fresh"
        ) from None


def _samples(recordings: Recordings) -> NDArray[np.float32]:
    return np.concatenate(list(played(recordings)))
