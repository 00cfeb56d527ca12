"""The speech LLM at run time: windows are encoded and prefilled as they close, answers averaged.

[prompt's beginning][audio tokens][prompt's end]: nothing before the audio depends on it, so its
keys and values are shared by all requests; a closed window's audio tokens go into the language
model at once. What is left when the speech ends is the open window and the prompt's end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Grade
from asa_engine.bundle import Bundle
from asa_engine.graders.entry import GraderEntry, openers
from asa_engine.graders.lm.windows import cut
from asa_engine.graders.speech_llm.config import SAMPLE_RATE_HZ, SpeechLLMConfig
from asa_engine.graders.speech_llm.stages import SpeechLLMStages, Stages, TorchStages, Window
from asa_engine.graders.speech_llm.unit_stages import UnitStages
from asa_engine.profiling import StageClock
from asa_engine.request import Request
from asa_engine.runtimes.torch import TorchRuntime

__all__ = ["ENTRY", "STAGE_NAMES", "SpeechLLMRun", "judge"]

STAGE_NAMES = ("encoder", "projector", "language_model", "head")
_NO_TEXTS = Request()


class SpeechLLMRun:
    """Scores one recording as its samples arrive.

    Args:
        config: The grader's configuration.
        stages: Its stages.
        clock: Collects `features`, `encoder`, `backbone` and `head` times.
        request: Texts of the request; this grader uses none.
    """

    def __init__(
        self,
        config: SpeechLLMConfig,
        stages: Stages,
        clock: StageClock,
        request: Request = _NO_TEXTS,
    ) -> None:
        self._config = config
        self._stages = stages
        self._clock = clock
        self._mel = cut(config)
        self._samples = 0
        self._windows = 0
        self._answers: list[NDArray[np.float64]] = []
        self._answer: NDArray[np.float64] | None = None  # of the open chunk, once it is full
        self._open = stages.start()
        self._open_windows = 0
        self._open_tokens = 0
        self._judged: tuple[int, Grade | None] = (0, None)

    @property
    def missing(self) -> int:
        """Samples that close the next window: nothing new is known before."""
        return self._mel.room

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz; encode and prefill every window they close."""
        self._samples += samples.size
        with self._clock.scope("features"):
            closed = self._mel.push(samples)
        for mel in closed:
            window = self._encode(mel)
            if self._open_windows == self._config.chunk_windows:
                # Nothing more comes into this chunk: its answer need not wait for the end.
                self._answer = self._ask(window)
                continue
            with self._clock.scope("backbone"):
                self._open.extend(window)

    def provisional(self) -> Grade | None:
        """Return the scores of the closed windows, or `None` before the first one closes."""
        if self._windows != self._judged[0]:
            seconds = self._windows * self._config.window_s
            self._judged = (self._windows, self._grade(seconds))
        return self._judged[1]

    def finish(self) -> Grade | None:
        """Encode what is left and return the final scores; `None` if no window could be framed."""
        with self._clock.scope("features"):
            mel = self._mel.finish()
        last = None if mel is None else self._encode(mel)
        if not self._windows:
            return None
        return self._grade(self._samples / SAMPLE_RATE_HZ, last)

    def _encode(self, mel: NDArray[np.float32]) -> Window:
        # A chunk is closed by the first window after it: one that ends with the speech is the
        # last chunk, whatever its length.
        if self._open_windows == self._config.chunk_windows:
            assert self._answer is not None  # it was asked for when the chunk was full
            self._answers.append(self._answer)
            self._answer = None
            self._open = self._stages.start()
            self._open_windows = self._open_tokens = 0
        with self._clock.scope("encoder", frames=mel.shape[1]):
            window = self._stages.window(mel)
        self._open_tokens += len(window.tokens)
        self._open_windows += 1
        self._windows += 1
        return window

    def _ask(self, last: Window | None = None) -> NDArray[np.float64]:
        with self._clock.scope("backbone"):
            return self._open.answer(last)

    def _grade(self, duration_s: float, last: Window | None = None) -> Grade:
        answers = list(self._answers)
        if not answers or self._open_tokens >= self._config.min_chunk_tokens:
            answers.append(self._ask(last) if self._answer is None else self._answer)
        with self._clock.scope("head"):
            return judge(self._config, answers, duration_s)


def judge(
    config: SpeechLLMConfig, answers: Sequence[NDArray[np.float64]], duration_s: float
) -> Grade:
    """Average the answers of a recording's chunks.

    Args:
        config: The grader's configuration.
        answers: Label logits or a regression's outputs, [K] of each chunk.
        duration_s: Seconds of speech they were judged on.

    Returns:
        The scores; with labels, also their probabilities, averaged over the chunks.
    """
    stacked = np.stack(answers)
    if config.answer == "regression":
        low = np.array([aspect.scale_min for aspect in config.aspects])
        high = np.array([aspect.scale_max for aspect in config.aspects])
        means = ((low + high) / 2 + stacked * (high - low) / 2).mean(axis=0)
        return Grade(
            {
                aspect.name: aspect.score(value, duration_s=duration_s)
                for aspect, value in zip(config.aspects, means.tolist(), strict=True)
            }
        )
    powers = np.exp(stacked - stacked.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    points = np.array(config.prompt.label_scores)
    values = points[stacked.argmax(axis=1)] if config.answer == "hard" else shares @ points
    (aspect,) = config.aspects
    probabilities = dict(zip(config.prompt.labels, shares.mean(axis=0).tolist(), strict=True))
    score = aspect.score(float(values.mean()), duration_s=duration_s, probabilities=probabilities)
    return Grade({aspect.name: score})


def _open(backend: str, bundle: Bundle, precision: str, threads: int) -> Stages:
    config = SpeechLLMConfig.from_dict(bundle.config)
    files = {name: bundle.file(name, backend, precision) for name in STAGE_NAMES}
    if backend == "ctranslate2":
        return UnitStages.open(config, files, precision=precision, threads=threads)
    device = "cuda" if backend == "onnxruntime-cuda" else ""
    return SpeechLLMStages.open(config, files, precision=precision, threads=threads, device=device)


def _open_torch(bundle: Bundle, precision: str, threads: int) -> Stages:
    TorchRuntime.need(threads, precision)
    from asa_engine.graders.speech_llm.model import SpeechLLM

    return TorchStages(SpeechLLM.load(bundle.path))


BACKENDS = ("native", "onnxruntime", "onnxruntime-cuda", "ctranslate2")

ENTRY: GraderEntry[SpeechLLMConfig, Stages] = GraderEntry(
    name="speech_llm",
    summary="S3: audio encoder, projector, language model; the answer is one label token",
    exact_when="a window's tokens are prefilled when it closes; the scores when the speech ends",
    config=SpeechLLMConfig.from_dict,
    backends=openers(_open, *BACKENDS, torch=_open_torch),
    run=SpeechLLMRun,
    trainer="asa_engine.training.speech_llm.trainer:train",
    recipe="asa_engine.training.speech_llm.recipe:SpeechLLMRecipe",
    exporter="asa_export.speech_llm:EXPORTER",
)
