"""The pronunciation grader at run time.

Closed windows are encoded once. Without a text the phones that were heard are judged; with one it
is laid over the frames, the decoder writes it, and phones, words and the whole are judged. One
encoder pass serves all of it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from asa_engine.assessment import Grade
from asa_engine.bundle import Bundle
from asa_engine.errors import AudioError
from asa_engine.graders import GraderEntry
from asa_engine.graders.pronunciation.again import Reading, only_reading, with_others
from asa_engine.graders.pronunciation.config import PronunciationConfig
from asa_engine.graders.pronunciation.describe import describe_free, frame_levels
from asa_engine.graders.pronunciation.feedback import Feedback
from asa_engine.graders.pronunciation.judge import Judge, Pooled, phone_log_probabilities
from asa_engine.graders.pronunciation.measures import Array
from asa_engine.graders.pronunciation.plan import GROUP_TOKENS, Plan, lay, plan_of
from asa_engine.graders.pronunciation.reading import Heard, Quiet, read_text
from asa_engine.graders.pronunciation.stages import Stages, open_native
from asa_engine.graders.windows import WindowedRun, log_mel_windows
from asa_engine.profiling import StageClock
from asa_engine.request import Request
from asa_engine.runtimes.torch import TorchRuntime

__all__ = ["ENTRY", "PronunciationEmbedding", "PronunciationRun"]

SAMPLE_RATE_HZ: Final = 16_000
SAMPLES_PER_FRAME: Final = 320
TOO_LITTLE: Final = "too_little_speech"
MISMATCH: Final = "text_mismatch"
TEXT: Final = "text"
FREE: Final = "free"
_NO_TEXTS: Final = Request()


class PronunciationRun(WindowedRun):
    """Judges one recording as its samples arrive.

    Args:
        config: The grader's configuration.
        stages: What it runs on.
        clock: Collects `features`, `encoder`, `backbone` and `head` times.
        request: The text that was read, if it is known.

    Raises:
        UsageError: The text cannot be read aloud.
    """

    def __init__(
        self,
        config: PronunciationConfig,
        stages: Stages,
        clock: StageClock,
        request: Request = _NO_TEXTS,
    ) -> None:
        self._config = config
        self._stages = stages
        self._clock = clock
        self._plan: Plan | None = None
        self._quiet: Quiet = {}
        if request.text is not None:
            self._plan = plan = plan_of(stages.vocabulary, request.text)
            if len(plan.tokens) <= GROUP_TOKENS:
                # Before anything is said, so that it is no part of the time to score.
                with clock.scope("backbone"):
                    self._quiet = {plan.tokens: stages.write_quiet(plan.tokens)}
        self._mel = log_mel_windows(config)
        self._samples = 0
        self._audio: list[Array] = []
        self._frames: list[Array] = []
        self._count = 0
        self._moments = np.zeros(2 * (config.encoder.layers + 1) * config.encoder.d_model)
        self._provisional: Grade | None = None

    def push(self, samples: Array) -> None:
        """Take float32 mono samples at 16 kHz; encode every window they close.

        Raises:
            AudioError: The reading of a text is longer than the grader takes.
        """
        before = self._samples
        self._samples += samples.size
        most = round(self._config.max_text_s * SAMPLE_RATE_HZ)
        if self._plan is not None and self._samples > most:
            raise AudioError(
                f"the reading is longer than {self._config.max_text_s:g} s",
                hint="judge it paragraph by paragraph",
            )
        if before < most:
            self._audio.append(samples[: most - before].copy())
        self._hear(samples)

    def provisional(self) -> Grade | None:
        """Return the grade of the windows closed so far: of a text, the words passed by then."""
        if self._provisional is None and self._frames:
            self._provisional = self._judge(is_final=False)
        return self._provisional

    def finish(self) -> Grade | None:
        """Encode what is left and judge; `None` if no window could be framed."""
        self._hear_rest()
        return self._judge(is_final=True) if self._frames else None

    def _take(self, mel: Array) -> None:
        with self._clock.scope("encoder", frames=mel.shape[1]):
            encoded = self._stages.encode(mel)
        # float64 sums: the order of windows is fixed, and hours of them lose nothing.
        self._moments += encoded.moments
        self._count += len(encoded.frames)
        if sum(map(len, self._frames)) * SAMPLES_PER_FRAME < sum(map(len, self._audio)):
            self._frames.append(encoded.frames)
        self._provisional = None

    def _judge(self, *, is_final: bool) -> Grade | None:
        frames = np.concatenate(self._frames)
        tensors = self._stages.tensors
        with self._clock.scope("head"):
            phones = phone_log_probabilities(tensors, frames)
            levels = frame_levels(np.concatenate(self._audio), len(frames))
        heard = Heard(frames, phones, levels)
        pooled = Pooled(self._count, self._moments)
        if self._plan is None:
            return self._judge_free(heard, pooled)
        plan = self._plan
        if not is_final:
            passed = self._passed(heard)
            if passed == 0:
                return None
            plan = plan.upto(passed, self._stages.vocabulary)
        return self._judge_text(heard, pooled, plan, is_final=is_final)

    def _judge_free(self, heard: Heard, pooled: Pooled) -> Grade:
        config, tensors = self._config, self._stages.tensors
        with self._clock.scope("head"):
            described = describe_free(heard.frames, heard.phones, heard.levels, tensors["usual"])
            if described is None:
                return Grade({}, reasons=(TOO_LITTLE,), scorable=False)
            judge = Judge(tensors, FREE, config.heads)
            rows = judge.inputs(
                described.phones, described.posteriors, described.frames, None,
                described.segments.owners,
            )  # fmt: skip
            judged = judge(rows, described.segments, None, described.reading, pooled)
        return Feedback(config).free(described, judged)

    def _judge_text(
        self, heard: Heard, pooled: Pooled, plan: Plan, *, is_final: bool
    ) -> Grade | None:
        config, tensors = self._config, self._stages.tensors
        only = Reading(0, len(heard.frames))
        if is_final:
            with self._clock.scope("head"):
                only = only_reading(heard.phones, plan.words)
            heard = Heard(*(part[only.begin : only.end] for part in heard))
        with self._clock.scope("backbone"):
            reading = read_text(self._stages, heard, plan, tensors["usual"], self._quiet)
        if reading is None:
            reasons = (MISMATCH,) if is_final else ()
            return Grade({}, reasons=reasons, scorable=False) if is_final else None
        described = reading.described
        assert described.words is not None
        with self._clock.scope("head"):
            judge = Judge(tensors, TEXT, config.heads)
            rows = judge.inputs(
                described.phones, described.posteriors, described.frames, described.words,
                described.segments.owners,
            )  # fmt: skip
            judged = judge(
                rows, described.segments, described.words, described.reading, pooled, reading.blocks
            )
            grade = Feedback(config).text(tensors, heard, plan, reading, judged)
        if is_final and MISMATCH in grade.reasons:
            return Grade({}, reasons=grade.reasons, scorable=False, features=grade.features)
        return with_others(grade, only)

    def _passed(self, heard: Heard) -> int:
        """Return how many words of the text lie whole inside what was heard."""
        assert self._plan is not None
        found = lay(heard.phones, self._plan.words, whole=False)
        if found is None:
            return 0
        sounds, alignment = found
        last = len(alignment.spans)
        owner = int(sounds.owners[last - 1])
        is_whole = last == len(sounds.owners) or int(sounds.owners[last]) != owner
        return owner + 1 if is_whole else owner


class PronunciationEmbedding(PronunciationRun):
    """A run that keeps the encoder's frames and judges nothing."""

    frame_rate_hz = 50.0

    def __init__(self, config: PronunciationConfig, stages: Stages, clock: StageClock) -> None:
        super().__init__(config, stages, clock)
        self.frames: list[Array] = []

    def finish(self) -> Grade | None:
        """Encode what is left; there is no grade."""
        self._hear_rest()
        return None

    def _take(self, mel: Array) -> None:
        with self._clock.scope("encoder", frames=mel.shape[1]):
            frames = self._stages.encode(mel).frames
        self.frames.append(np.ascontiguousarray(frames[:, frames.shape[1] // 2 :]))


def _open_torch(bundle: Bundle, precision: str, threads: int) -> Stages:
    """Open a checkpoint in PyTorch."""
    TorchRuntime.need(threads, precision)
    from asa_engine.graders.pronunciation.model import TorchStages

    return TorchStages.load(bundle.path)


ENTRY = GraderEntry(
    name="pronunciation",
    summary="which word, which sound: the read text laid over the speech and written by Whisper",
    exact_when="windows are encoded when they close; the text is judged when the speech ends",
    config=PronunciationConfig.from_dict,
    backends={"native": open_native, "torch": _open_torch},
    run=PronunciationRun,
    uses=("text",),
    embed=PronunciationEmbedding,
    trainer="asa_engine.training.pronunciation.trainer:train",
    recipe="asa_engine.training.pronunciation.recipe:PronunciationRecipe",
    exporter="asa_export.pronunciation:EXPORTER",
    device="asa_export.device_reading:pronunciation_file",
)
