"""The speech LLM at run time: windows are encoded and prefilled as they close, answers averaged.

[prompt's beginning][audio tokens][prompt's end]: nothing before the audio depends on it, so its
keys and values are shared by all requests; a closed window's audio tokens go into the language
model at once. What is left when the speech ends is the open window and the prompt's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Grade
from asa_engine.backends import backend_class
from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError
from asa_engine.graders import GraderEntry
from asa_engine.graders.speech_llm.config import SAMPLE_RATE_HZ, SpeechLLMConfig
from asa_engine.graders.speech_llm.stages import SpeechLLMStages, Stages, TorchStages
from asa_engine.graders.speech_llm.unit_stages import UnitStages
from asa_engine.graders.speech_llm.windows import cut
from asa_engine.profiling import StageClock
from asa_engine.request import Request

if TYPE_CHECKING:
    from asa_engine.selection import Choice

__all__ = ["ENTRY", "STAGE_NAMES", "SpeechLLMRun", "judge"]

STAGE_NAMES = ("encoder", "projector", "language_model", "head")
_REFERENCE = "torch"
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
        self._open = stages.start()
        self._open_windows = 0
        self._open_tokens = 0
        self._judged: tuple[int, Grade | None] = (0, None)

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz; encode and prefill every window they close."""
        self._samples += samples.size
        with self._clock.scope("features"):
            closed = self._mel.push(samples)
        for mel in closed:
            self._take(mel)

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
        if mel is not None:
            self._take(mel)
        if not self._windows:
            return None
        return self._grade(self._samples / SAMPLE_RATE_HZ)

    def _take(self, mel: NDArray[np.float32]) -> None:
        # A chunk is closed by the first window after it: one that ends with the speech is the
        # last chunk, whatever its length.
        if self._open_windows == self._config.chunk_windows:
            self._answers.append(self._ask())
            self._open = self._stages.start()
            self._open_windows = self._open_tokens = 0
        with self._clock.scope("encoder", frames=mel.shape[1]):
            window = self._stages.window(mel)
        with self._clock.scope("backbone"):
            self._open.extend(window)
        self._open_tokens += len(window.tokens)
        self._open_windows += 1
        self._windows += 1

    def _ask(self) -> NDArray[np.float64]:
        with self._clock.scope("backbone"):
            return self._open.answer()

    def _grade(self, duration_s: float) -> Grade:
        answers = list(self._answers)
        if not answers or self._open_tokens >= self._config.min_chunk_tokens:
            answers.append(self._ask())
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


def _open(bundle: Bundle, choice: Choice, threads: int) -> Stages:
    config = SpeechLLMConfig.from_dict(bundle.config)
    if choice.backend == _REFERENCE:
        return _open_reference(bundle, choice.precision, threads)
    if choice.backend not in ("onnxruntime", "onnxruntime-cuda", "ctranslate2"):
        raise BackendError(
            f"the {choice.backend} backend does not run the speech LLM",
            mend="choose another backend",
        )
    files = {name: bundle.file(name, choice.backend, choice.precision) for name in STAGE_NAMES}
    if choice.backend == "ctranslate2":
        return UnitStages.open(config, files, precision=choice.precision, threads=threads)
    device = "cuda" if choice.backend == "onnxruntime-cuda" else ""
    return SpeechLLMStages.open(
        config, files, precision=choice.precision, threads=threads, device=device
    )


def _open_reference(bundle: Bundle, precision: str, threads: int) -> Stages:
    if not (found := backend_class(_REFERENCE).availability()).usable:
        raise BackendError("the torch backend cannot run here", mend=found.reason)
    if precision != "fp32":
        raise BackendError(f"the speech LLM's reference runs at fp32, not {precision}")
    import torch

    from asa_engine.graders.speech_llm.model import SpeechLLM

    torch.set_num_threads(threads)
    return TorchStages(SpeechLLM.load(bundle.path))


ENTRY = GraderEntry(
    name="speech_llm",
    summary="S3: audio encoder, projector, language model; the answer is one label token",
    exact_when="a window's tokens are prefilled when it closes; the scores when the speech ends",
    config=SpeechLLMConfig.from_dict,
    open=_open,
    run=SpeechLLMRun,
)
