"""The speech LLM whose audio is units, on stock CTranslate2: tokens in, label logits out.

CTranslate2's generator takes tokens only. Its vocabulary here is what a sequence can hold: the
prompt's beginning, its end, and the codebook; its projection is the rows of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.errors import BundleError
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.stages import (
    AudioStage,
    ChunkRun,
    KeptChunk,
    Window,
    open_audio_stage,
)
from asa_engine.runtimes.ctranslate2 import CTranslate2Runtime, open_model
from asa_engine.runtimes.onnxruntime import OnnxRuntime

__all__ = ["UnitStages", "unit_vocabulary"]


def unit_vocabulary(config: SpeechLLMConfig) -> list[str]:
    """Return the names of CTranslate2's tokens: places of the prompt's tokens, then units."""
    prompt = config.prompt
    return [
        *(f"<prefix {i}>" for i in range(len(prompt.prefix_ids))),
        *(f"<suffix {i}>" for i in range(len(prompt.suffix_ids))),
        *(f"<unit {i}>" for i in range(config.units)),
    ]


class UnitStages:
    """The stages of a bundle; a chunk is run when it is asked for, prompt and all.

    Args:
        config: The grader's configuration; it has a codebook.
        audio: What comes before the language model.
        folder: CTranslate2's files, at the precision they are to run at.
        head: Tensor `answer.bias` [K].
        threads: Threads that one chunk is run with.

    Raises:
        BackendError: The package is not installed, or cannot load the files.
        BundleError: The grader has no codebook.
    """

    def __init__(
        self, config: SpeechLLMConfig, audio: AudioStage, folder: Path, head: Tensors, threads: int
    ) -> None:
        if not config.units:
            raise BundleError("this grader has no units", hint="choose another backend")
        before, after = len(config.prompt.prefix_ids), len(config.prompt.suffix_ids)
        self._prefix, self._suffix = np.arange(before), np.arange(before, before + after)
        self._first_unit = before + after
        answers = len(config.prompt.labels) or len(config.aspects)
        self._bias = head.read("answer.bias", (answers,)).astype(np.float64)
        self._audio = audio
        self._generator = open_model("Generator", folder, threads)

    @classmethod
    def open(
        cls, config: SpeechLLMConfig, files: Mapping[str, Path], *, precision: str, threads: int
    ) -> Self:
        """Load a variant's files: `encoder`, `projector`, `language_model`, `head`.

        Raises:
            BackendError: A runtime is not installed or cannot load its files.
            BundleError: The grader has no codebook.
            CheckpointError: A tensor is missing or of another shape.
        """
        head = Tensors(files["head"])
        audio = open_audio_stage(config, files, head, precision=precision, threads=threads)
        return cls(config, audio, files["language_model"].parent, head, threads)

    def window(self, mel: NDArray[np.float32]) -> Window:
        """Encode a window and round its audio tokens to units."""
        return self._audio.window(mel)

    def start(self) -> ChunkRun:
        """Begin a chunk."""
        return KeptChunk(self.read)

    def read(self, windows: Sequence[Window]) -> NDArray[np.float64]:
        """Return the answer [K] to a chunk's windows."""
        units = [window.units + self._first_unit for window in windows if window.units is not None]
        ids = np.concatenate((self._prefix, *units, self._suffix))
        logits = np.array(self._generator.forward_batch([ids.tolist()]))[0, -1]
        return self._audio.pool(logits.astype(np.float64) + self._bias, windows)

    def versions(self) -> dict[str, str]:
        """Return the versions of CTranslate2 and ONNX Runtime."""
        return OnnxRuntime.availability().versions | CTranslate2Runtime.availability().versions
