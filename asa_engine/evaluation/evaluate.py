"""Score a manifest and compare with the experts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Score
from asa_engine.engine import Engine
from asa_engine.errors import AudioError, ManifestError
from asa_engine.evaluation.agreement import by_speaker, group_rows, intervals
from asa_engine.evaluation.manifest import Utterance
from asa_engine.evaluation.metrics import classification, confusion, defined, metrics, scale_step
from asa_engine.evaluation.rationales import RationaleTally
from asa_engine.evaluation.sessions import Session, assess_session
from asa_engine.evaluation.words import WordTally, expert_words
from asa_engine.graders.aspects import AspectConfig

__all__ = ["Classes", "Evaluation", "evaluate", "evaluate_sessions"]

OVERALL, TOTAL = "overall", "total"


@dataclass(frozen=True, slots=True)
class Classes:
    """Answers of a grader that classifies, as indices into the names, lowest first.

    Attributes:
        names: Of the classes.
        likeliest: The class of the highest probability, int64 [n].
        banded: The class whose band the expected score falls in, int64 [n].
        expected: The class whose band the experts' score falls in, int64 [n].
    """

    names: tuple[str, ...]
    likeliest: NDArray[np.int64]
    banded: NDArray[np.int64]
    expected: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Return accuracy, macro accuracy, macro F1 and confusion of both answers, as JSON."""
        values: dict[str, Any] = {"names": list(self.names)}
        for answer, said in (("likeliest_class", self.likeliest), ("level", self.banded)):
            counts = confusion(said, self.expected, len(self.names))
            values[answer] = {**defined(classification(counts)), "confusion": counts.tolist()}
        return values


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores beside the experts'.

    Attributes:
        ids: Ids of the utterances scored, [n].
        predicted: Aspect -> scores, float64 [n].
        expected: Aspect -> the experts' scores, float64 [n].
        audio_s: Seconds of audio scored.
        busy_s: Seconds it took, decoding included.
        unscorable: Ids left out: judged unscorable, or unreadable.
        speakers: Who speaks, [n]; "" where unknown.
        steps: Aspect -> points between neighbouring scores of the experts' scale, for `qwk`.
        groups: Title -> rows of a group of speakers.
        classes: Aspect -> answers of a grader that classifies.
        granular: Agreement on words, phones and rationales, as JSON values.
    """

    ids: tuple[str, ...]
    predicted: dict[str, NDArray[np.float64]]
    expected: dict[str, NDArray[np.float64]]
    audio_s: float
    busy_s: float
    unscorable: tuple[str, ...] = field(default=())
    speakers: tuple[str, ...] = ()
    steps: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    classes: Mapping[str, Classes] = field(default_factory=dict)
    granular: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return n, every figure of each aspect, and the speed, as JSON values.

        What is undefined, as a correlation where all experts' scores are equal, is `None`.
        """
        steps = {name: self._step(name) for name in self.predicted}
        # A recording without a speaker is one of its own.
        units = [who or f"\0{i}" for i, who in enumerate(self.speakers or [""] * len(self.ids))]
        values: dict[str, Any] = {
            "n": len(self.ids),
            "speakers": len(set(units)) if all(self.speakers) and self.speakers else None,
            "aspects": {name: self._metrics(name) for name in self.predicted},
            "qwk_steps": steps,
            "intervals": intervals(self.predicted, self.expected, units, steps),
        }
        if averages := by_speaker(self.predicted, self.expected, self.speakers, steps):
            values["by_speaker"] = averages
        if self.groups:
            values["groups"] = {title: self._group(rows) for title, rows in self.groups.items()}
        if self.classes:
            values["classes"] = {name: each.to_dict() for name, each in self.classes.items()}
        return {
            **values,
            "seconds_per_audio_hour": 3600.0 * self.busy_s / self.audio_s,
            "unscorable": list(self.unscorable),
            **self.granular,
        }

    def _step(self, aspect: str) -> float:
        return self.steps.get(aspect) or scale_step(self.expected[aspect])

    def _metrics(
        self, aspect: str, rows: Sequence[int] | slice = slice(None)
    ) -> dict[str, float | None]:
        said, wanted = self.predicted[aspect][rows], self.expected[aspect][rows]
        return defined(metrics(said, wanted, step=self._step(aspect)))

    def _group(self, rows: Sequence[int]) -> dict[str, Any]:
        who = {self.speakers[row] for row in rows} if self.speakers else {""}
        return {
            "n": len(rows),
            "speakers": None if "" in who else len(who),
            "aspects": {name: self._metrics(name, rows) for name in self.predicted},
        }


def evaluate(
    engine: Engine,
    utterances: Sequence[Utterance],
    *,
    progress: Callable[[Iterable[Utterance]], Iterable[Utterance]] = iter,
) -> Evaluation:
    """Score every utterance; those that cannot be scored are left out and named.

    Args:
        engine: Any engine.
        utterances: What `asa_engine.evaluation.manifest.read_manifest` returned.
        progress: Wraps the iteration, e.g. `tqdm.tqdm`.

    Raises:
        ManifestError: The manifest lacks every aspect that the grader scores, words are
            malformed, or fewer than two utterances could be scored.
    """
    aspects = [aspect.name for aspect in engine.config.aspects]
    shared = [name for name in aspects if all(name in u.scores for u in utterances)]
    if not shared:
        raise ManifestError(
            f"the manifest has none of the scores {', '.join(aspects)} on every line",
            hint="name the scores as the grader does",
        )
    experts = {utterance.id: expert_words(utterance) for utterance in utterances}
    rows: list[list[Score]] = []
    scored: list[Utterance] = []
    unscorable: list[str] = []
    words, rationales = WordTally(), RationaleTally()
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
        rows.append([result.scores[name] for name in shared])
        scored.append(utterance)
        if pairs := words.add(result.words, experts[utterance.id]):
            rationales.add(result, pairs)
        audio_s += result.timing.audio_s
    busy_s = time.perf_counter() - start
    if len(scored) < 2:
        raise ManifestError(f"only {len(scored)} of {len(utterances)} recordings could be scored")
    columns = dict(zip(shared, zip(*rows, strict=True), strict=True))
    predicted = {name: np.array([s.value for s in column]) for name, column in columns.items()}
    expected = {name: np.array([u.scores[name] for u in scored]) for name in shared}
    told = rationales.to_dict()
    return Evaluation(
        ids=tuple(u.id for u in scored),
        predicted=predicted,
        expected=expected,
        audio_s=audio_s,
        busy_s=busy_s,
        unscorable=tuple(unscorable),
        speakers=tuple(u.speaker for u in scored),
        groups=group_rows(scored),
        classes={
            aspect.name: _classes(aspect, columns[aspect.name], expected[aspect.name])
            for aspect in engine.config.aspects
            if aspect.name in columns and _classifies(aspect, columns[aspect.name])
        },
        granular={**words.to_dict(), **({"rationales": told} if told else {})},
    )


def _classifies(aspect: AspectConfig, scores: Sequence[Score]) -> bool:
    """Return whether a grader chose among the aspect's levels, and not labels of its own."""
    return bool(aspect.level_names) and all(
        tuple(score.probabilities or ()) == tuple(aspect.level_names) for score in scores
    )


def _classes(
    aspect: AspectConfig, scores: Sequence[Score], expected: NDArray[np.float64]
) -> Classes:
    return Classes(
        names=tuple(aspect.level_names),
        likeliest=np.array([aspect.level_names.index(s.likeliest_class or "") for s in scores]),
        banded=np.array([aspect.level_index(score.value) for score in scores]),
        expected=np.array([aspect.level_index(value) for value in expected]),
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
        parts = {part.part: part.scores[own].value for part in result.parts if part.scores}
        if len(parts) < len(session.parts):
            unscorable.append(session.name)
            continue
        rows.append({**parts, OVERALL: result.scores[own].value})
        scored.append(session)
        audio_s += result.timing.audio_s
    busy_s = time.perf_counter() - start
    if len(scored) < 2:
        raise ManifestError(f"only {len(scored)} of {len(sessions)} sessions could be scored")
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    expected = {name: np.array([s.scores[name] for s in scored]) for name in shared}
    return Evaluation(
        ids=tuple(session.name for session in scored),
        predicted={name: np.array([row[name] for row in rows]) for name in shared},
        expected=expected,
        audio_s=audio_s,
        busy_s=busy_s,
        unscorable=tuple(unscorable),
        speakers=tuple(session.name for session in scored),
        # Means of parts lie between the steps of the scale that the parts are on.
        steps=dict.fromkeys(shared, min(scale_step(expected[name]) for name in shared)),
    )
