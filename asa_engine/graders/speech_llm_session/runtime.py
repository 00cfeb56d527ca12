"""The session grader at run time: responses are heard as they come, the session is judged at once.

    [prior][prefix] [heading P1][audio][between][audio][between] ... [suffix]     prior first
    [prefix] [heading P1][audio][between] ... [prior][suffix]                     prior last

Parts come in the grader's order. A response that is dropped (unscorable, unreadable) or too short
to frame a window is as if it had not been there: its audio leaves language model and prior again.
A part of which nothing was kept is told as missing, gets no score, and is left out of the mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Grade, Prior, Score
from asa_engine.bundle import Bundle
from asa_engine.errors import AudioError, UsageError
from asa_engine.graders.entry import GraderEntry, openers
from asa_engine.graders.speech_llm.config import SAMPLE_RATE_HZ
from asa_engine.graders.speech_llm_session.config import OVERALL, SessionConfig
from asa_engine.graders.speech_llm_session.stages import (
    SessionStages,
    Stages,
    TorchSessionStages,
)
from asa_engine.graders.speech_llm_session.windows import Mels, SessionWindows
from asa_engine.language_model.reading_modes import MODES
from asa_engine.profiling import StageClock
from asa_engine.runtimes.torch import TorchRuntime

if TYPE_CHECKING:
    pass

__all__ = ["ENTRY", "STAGE_NAMES", "SessionRun", "reading_mode", "stage_names"]

STAGE_NAMES = ("encoder", "projector", "prior", "language_model", "head")
_PRIOR_ENCODER = "prior_encoder"


def stage_names(config: SessionConfig) -> tuple[str, ...]:
    """Return a grader's stages: `STAGE_NAMES`, and the prior's own encoder where it has one."""
    return STAGE_NAMES if config.prior.encoder is None else (*STAGE_NAMES, _PRIOR_ENCODER)


def reading_mode(config: SessionConfig, mode: str | None) -> str:
    """Return the way that a session is read; by default the exact one of the grader.

    Raises:
        UsageError: There is no such mode, or it is not for this grader.
    """
    late = config.prior.position == "last"
    possible = ("late",) if late else tuple(name for name in MODES if name != "late")
    if mode is None:
        return possible[0]
    if mode not in possible:
        raise UsageError(
            f"this grader, trained with its prior {config.prior.position}, cannot be read {mode!r}",
            hint=f"choose {' or '.join(possible)}",
        )
    return mode


class _Mark(NamedTuple):
    """Where a response began."""

    rows: int
    total: NDArray[np.float64]
    frames: int


class SessionRun:
    """Scores one session as its samples arrive.

    Args:
        config: The grader's configuration.
        stages: Its stages.
        clock: Collects `features`, `encoder`, `prior`, `backbone` and `head` times.
        mode: One of `asa_engine.language_model.reading_modes.MODES` that suits the grader; `None`
            for its exact one.
        tolerance: For `speculative`: how far, in total variation, the prior may move before what
            was read is read again. Scores are exact at zero.

    Attributes:
        reading: How far the language model is; for measurements.
        mode: The mode in use.

    Raises:
        UsageError: The mode is not for this grader, or the tolerance not from 0 to 1.
    """

    def __init__(
        self,
        config: SessionConfig,
        stages: Stages,
        clock: StageClock,
        *,
        mode: str | None = None,
        tolerance: float = 0.0,
    ) -> None:
        if not 0 <= tolerance <= 1:
            raise UsageError(f"a tolerance of {tolerance} is not from 0 to 1")
        self._config = config
        self._stages = stages
        self._clock = clock
        self.mode = reading_mode(config, mode)
        self.reading = stages.start(self.mode, tolerance)
        self._order = {part.name: index for index, part in enumerate(config.parts)}
        self._kept = [0] * len(config.parts)
        self._at = -1  # index of the part that was begun last
        self._responses = 0
        self._samples = 0
        self._kept_samples = 0
        self._total = np.zeros(config.prior_encoder.d_model)
        self._frames = 0
        self._mel: SessionWindows | None = None
        self._mark = _Mark(self.reading.count, self._total, 0)
        self._tokens = 0
        self._open_samples = 0
        self._changes = 0
        self._judged: tuple[int, Grade | None] = (0, None)

    def begin(self, part: str) -> None:
        """Begin the next response.

        Raises:
            UsageError: The grader knows no such part, or a later one was begun before; or the
                response before has not ended.
            AudioError: There are more responses than the grader takes.
        """
        names = ", ".join(self._order)
        if self._mel is not None:
            raise UsageError("the response before has not ended", hint="end it first")
        if part not in self._order:
            raise UsageError(f"the grader knows no part {part!r}", hint=f"parts are {names}")
        if (index := self._order[part]) < self._at:
            raise UsageError(
                f"part {part} comes after {self._config.parts[self._at].name}",
                hint=f"parts come in this order: {names}",
            )
        self._responses += 1
        if self._responses > self._config.max_responses:
            raise AudioError(
                f"the session has more than {self._config.max_responses} responses",
                hint="leave some out",
            )
        if rows := self._texts_to(index, self._kept):
            self._add(np.concatenate(rows))
        self._at = index
        self._mark = _Mark(self.reading.count, self._total, self._frames)
        self._tokens = self._open_samples = 0
        self._mel = SessionWindows(self._config)

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz of the response; hear every window they close.

        Raises:
            AudioError: The session is longer than the grader takes.
            UsageError: No response was begun.
        """
        mel = self._opened()
        self._samples += samples.size
        if self._samples > self._config.max_audio_s * SAMPLE_RATE_HZ:
            raise AudioError(
                f"the session holds more than {self._config.max_audio_s:g} s of audio",
                hint="leave some out",
            )
        self._open_samples += samples.size
        with self._clock.scope("features"):
            closed = mel.push(samples)
        for window in closed:
            self._take(window)

    def end(self, *, keep: bool = True) -> bool:
        """End the response.

        Args:
            keep: False forgets it.

        Returns:
            Whether it counts: it was to be kept and long enough to frame a window.

        Raises:
            UsageError: No response was begun.
        """
        mel = self._opened()
        if keep:
            with self._clock.scope("features"):
                rest = mel.finish()
            if rest is not None:
                self._take(rest)
        self._mel = None
        self._changes += 1
        if not keep or not self._tokens:
            self.reading.rewind(self._mark.rows)
            self._total, self._frames = self._mark.total, self._mark.frames
            return False
        self._add(self._stages.texts.between)
        self._kept[self._at] += 1
        self._kept_samples += self._open_samples
        return True

    def provisional(self) -> Grade | None:
        """Return the grade, were this all; `None` before anything was heard.

        Parts to come count as missing. It is judged anew after every window, or, where nothing is
        read before the end (`deferred`) and it costs a whole reading, after every response.
        """
        if self._changes != self._judged[0]:
            self._judged = (self._changes, self._grade())
        return self._judged[1]

    def finish(self) -> Grade | None:
        """Return the final grade; `None` where nothing was heard.

        Raises:
            UsageError: A response has not ended.
        """
        if self._mel is not None:
            raise UsageError("the last response has not ended", hint="end it first")
        return self._grade()

    def _opened(self) -> SessionWindows:
        if self._mel is None:
            raise UsageError("no response was begun", hint="begin one first")
        return self._mel

    def _take(self, mels: Mels) -> None:
        with self._clock.scope("encoder", frames=mels.speech.shape[1]):
            heard = self._stages.hear(mels)
        self._total = self._total + heard.total
        self._frames += heard.frames
        self._tokens += len(heard.tokens)
        self._add(heard.tokens)
        if self.mode != "deferred":
            self._changes += 1

    def _add(self, rows: NDArray[np.float32]) -> None:
        prior = self._prior() if self._frames and self.mode == "speculative" else None
        with self._clock.scope("backbone"):
            self.reading.add(rows, prior)

    def _prior(self) -> NDArray[np.float64]:
        with self._clock.scope("prior"):
            return self._stages.probabilities(self._total / self._frames)

    def _texts_to(self, index: int, kept: list[int]) -> list[NDArray[np.float32]]:
        """Return the texts from the part at hand to the first response of another."""
        texts = self._stages.texts
        rows: list[NDArray[np.float32]] = []
        for at in range(self._at + 1, index + 1):
            if at and not kept[at - 1]:
                rows.append(texts.missing)
            rows.append(texts.headings[at])
        return rows

    def _grade(self) -> Grade | None:
        is_open = self._mel is not None and self._tokens > 0
        if not self._frames or not (is_open or any(self._kept)):
            return None
        kept, texts = list(self._kept), self._stages.texts
        rows = []
        if is_open:
            kept[self._at] += 1
            rows.append(texts.between)
        rows += self._texts_to(len(kept) - 1, kept)
        if not kept[-1]:
            rows.append(texts.missing)
        prior = self._prior()
        with self._clock.scope("backbone"):
            hidden = self.reading.answer(prior, np.concatenate(rows) if rows else None)
        with self._clock.scope("head"):
            seconds = self._kept_samples / SAMPLE_RATE_HZ
            if is_open:
                seconds += self._open_samples / SAMPLE_RATE_HZ
            scores = judge(self._config, self._stages.read(hidden), prior, kept, seconds)
        levels = self._config.prior.levels
        return Grade(scores, prior=Prior(levels, tuple(prior.tolist())))


def judge(
    config: SessionConfig,
    answer: NDArray[np.float64],
    prior: NDArray[np.float64],
    kept: list[int],
    duration_s: float,
) -> dict[str, Score]:
    """Return the scores of the parts that something was heard of, and their mean as `overall`.

    Args:
        config: The grader's configuration.
        answer: Scores [A] in halves of each scale round its middle, as the head says them.
        prior: Of its levels, [L].
        kept: Responses kept of each part.
        duration_s: Seconds of speech they were judged on.
    """
    low = np.array([aspect.scale_min for aspect in config.aspects])
    high = np.array([aspect.scale_max for aspect in config.aspects])
    points = config.pooled((low + high) / 2 + answer * (high - low) / 2, prior)
    *parts, overall = config.aspects
    scores = {
        aspect.name: aspect.score(value, duration_s=duration_s)
        for aspect, value, count in zip(parts, points.tolist(), kept, strict=False)
        if count
    }
    mean = sum(score.value for score in scores.values()) / len(scores)
    return {**scores, OVERALL: overall.score(mean, duration_s=duration_s)}


def _open(backend: str, bundle: Bundle, precision: str, threads: int) -> Stages:
    config = SessionConfig.from_dict(bundle.config)
    files = {name: bundle.file(name, backend, precision) for name in stage_names(config)}
    return SessionStages(config, files, precision=precision, threads=threads)


def _open_torch(bundle: Bundle, precision: str, threads: int) -> Stages:
    TorchRuntime.need(threads, precision)
    from asa_engine.graders.speech_llm_session.model import SessionLLM

    return TorchSessionStages(SessionLLM.load(bundle.path))


def _no_recordings(*_: Any, **__: Any) -> Any:
    raise UsageError(
        "the session grader scores whole sessions, not single recordings",
        hint="pass --session, or use engine.session()",
    )


ENTRY: GraderEntry[SessionConfig, Stages] = GraderEntry(
    name="speech_llm_session",
    summary="S4: Whisper encoder, acoustic prior, language model over a session; scores of parts",
    exact_when="prior last: a window is read when it closes; prior first: all at the end",
    config=SessionConfig.from_dict,
    backends=openers(_open, "native", "onnxruntime", torch=_open_torch),
    run=_no_recordings,
    session=SessionRun,
    trainer="asa_engine.training.speech_llm_session.trainer:train",
    recipe="asa_engine.training.speech_llm_session.recipe:SessionRecipe",
    exporter="asa_export.speech_llm_session:EXPORTER",
)
