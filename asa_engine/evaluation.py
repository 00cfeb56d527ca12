"""Score a manifest and compare with the experts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.engine import Engine
from asa_engine.errors import AudioError, ManifestError
from asa_engine.granular import GranularTally
from asa_engine.manifest import Utterance
from asa_engine.metrics import metrics
from asa_engine.session import Session, assess_session

__all__ = ["Evaluation", "evaluate", "evaluate_sessions"]

OVERALL, TOTAL = "overall", "total"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        ids: Ids of the utterances scored, [n].
        predicted: Aspect -> scores, float64 [n].
        expected: Aspect -> the experts' scores, float64 [n].
        audio_s: Seconds of audio scored.
        busy_s: Seconds it took, decoding included.
        unscorable: Ids left out: judged unscorable, or unreadable.
        granular: Agreement on words, phones and rationales, as JSON values, from graders that
            label words.
    """

    ids: tuple[str, ...]
    predicted: dict[str, NDArray[np.float64]]
    expected: dict[str, NDArray[np.float64]]
    audio_s: float
    busy_s: float
    unscorable: tuple[str, ...] = field(default=())
    granular: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return n, the metrics of each aspect, and the speed, as JSON values.

        A correlation that is undefined, as when all experts' scores are equal, is `None`.
        """
        return {
            "n": len(self.ids),
            "aspects": {name: self._metrics(name) for name in self.predicted},
            "seconds_per_audio_hour": 3600.0 * self.busy_s / self.audio_s,
            "unscorable": list(self.unscorable),
            **self.granular,
        }

    def _metrics(self, aspect: str) -> dict[str, float | None]:
        found = metrics(self.predicted[aspect], self.expected[aspect])
        return {name: None if math.isnan(value) else value for name, value in found.items()}


def evaluate(
    engine: Engine,
    utterances: Sequence[Utterance],
    *,
    progress: Callable[[Iterable[Utterance]], Iterable[Utterance]] = iter,
) -> Evaluation:
    """Score every utterance; those that cannot be scored are left out and named.

    Args:
        engine: Any engine.
        utterances: What `asa_engine.manifest.read_manifest` returned.
        progress: Wraps the iteration, e.g. `tqdm.tqdm`.

    Raises:
        ManifestError: The manifest lacks every aspect that the grader scores, or fewer than two
            utterances could be scored.
    """
    aspects = [aspect.name for aspect in engine.config.aspects]
    shared = [name for name in aspects if all(name in u.scores for u in utterances)]
    if not shared:
        raise ManifestError(
            f"the manifest has none of the scores {', '.join(aspects)} on every line",
            mend="name the scores as the grader does",
        )
    rows: list[list[float]] = []
    scored: list[Utterance] = []
    unscorable: list[str] = []
    tally = GranularTally()
    audio_s = 0.0
    start = time.perf_counter()
    for utterance in progress(utterances):
        try:
            texts = {name: utterance.texts.get(name) for name in engine.uses}
            result = engine.assess(utterance.audio, **texts)
        except AudioError:
            unscorable.append(utterance.id)
            continue
        if not result.validity.scorable:
            unscorable.append(utterance.id)
            continue
        rows.append([result.scores[name].value for name in shared])
        scored.append(utterance)
        tally.add(utterance, result)
        audio_s += result.timing.audio_s
    busy_s = time.perf_counter() - start
    if len(scored) < 2:
        raise ManifestError(f"only {len(scored)} of {len(utterances)} recordings could be scored")
    table = np.array(rows)
    return Evaluation(
        ids=tuple(u.id for u in scored),
        predicted={name: table[:, i] for i, name in enumerate(shared)},
        expected={name: np.array([u.scores[name] for u in scored]) for name in shared},
        audio_s=audio_s,
        busy_s=busy_s,
        unscorable=tuple(unscorable),
        granular=tally.to_dict(),
    )


def evaluate_sessions(
    engine: Engine,
    sessions: Sequence[Session],
    *,
    progress: Callable[[Iterable[Session]], Iterable[Session]] = iter,
) -> Evaluation:
    """Score every session; those that lack a part, or cannot be scored, are left out and named.

    A grader of recordings is compared by the means of its `total`, or of its only aspect.

    Args:
        engine: Any engine.
        sessions: With the experts' scores of each part and `overall`.
        progress: Wraps the iteration, e.g. `tqdm.tqdm`.

    Raises:
        ManifestError: A session has no experts' score for a part or `overall`, fewer than two
            could be scored, or the grader has several aspects and no `total`.
    """
    names = [aspect.name for aspect in engine.config.aspects]
    own = OVERALL if engine.hears_sessions else TOTAL if TOTAL in names else names[0]
    if own not in (OVERALL, TOTAL) and len(names) > 1:
        raise ManifestError(f"the {engine.grader} grader has no {TOTAL!r} to compare sessions by")
    rows: list[dict[str, float]] = []
    scored: list[Session] = []
    unscorable: list[str] = []
    audio_s = 0.0
    start = time.perf_counter()
    for session in progress(sessions):
        wanted = [*(part.name for part in session.parts), OVERALL]
        if lacking := [name for name in wanted if name not in session.scores]:
            raise ManifestError(f"session {session.name} has no score {lacking[0]!r}")
        try:
            result = assess_session(engine, session)
        except AudioError:
            unscorable.append(session.name)
            continue
        found = {part.part: part.scores[own].value for part in result.parts if part.scores}
        if len(found) < len(session.parts):
            unscorable.append(session.name)
            continue
        rows.append({**found, OVERALL: result.scores[own].value})
        scored.append(session)
        audio_s += result.timing.audio_s
    busy_s = time.perf_counter() - start
    if len(scored) < 2:
        raise ManifestError(f"only {len(scored)} of {len(sessions)} sessions could be scored")
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    return Evaluation(
        ids=tuple(session.name for session in scored),
        predicted={name: np.array([row[name] for row in rows]) for name in shared},
        expected={name: np.array([s.scores[name] for s in scored]) for name in shared},
        audio_s=audio_s,
        busy_s=busy_s,
        unscorable=tuple(unscorable),
    )
