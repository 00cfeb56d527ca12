"""The speech LLM whose audio is units, on stock CTranslate2: tokens in, label logits out.

CTranslate2's generator takes tokens only. Its vocabulary here is what a sequence can hold: the
prompt's beginning, its end, and the codebook; its projection is the rows of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.backends.safetensors import Tensors
from asa_engine.errors import BackendError, BundleError
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.stages import Hearing, Judging, Window, open_hearing

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
        hearing: What comes before the language model.
        folder: CTranslate2's files, at the precision they are to run at.
        head: Tensor `answer.bias` [K].
        threads: Threads that one chunk is run with.

    Raises:
        BackendError: The package is not installed, or cannot load the files.
        BundleError: The grader has no codebook.
    """

    def __init__(
        self, config: SpeechLLMConfig, hearing: Hearing, folder: Path, head: Tensors, threads: int
    ) -> None:
        if not config.units:
            raise BundleError("this grader has no units", mend="choose another backend")
        before, after = len(config.prompt.prefix_ids), len(config.prompt.suffix_ids)
        self._prefix, self._suffix = np.arange(before), np.arange(before, before + after)
        self._first_unit = before + after
        answers = len(config.prompt.labels) or len(config.aspects)
        self._bias = head.read("answer.bias", (answers,)).astype(np.float64)
        self._hearing = hearing
        self._generator = _generator(folder, threads)

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
        hearing = open_hearing(config, files, head, precision=precision, threads=threads)
        return cls(config, hearing, files["language_model"].parent, head, threads)

    def window(self, mel: NDArray[np.float32]) -> Window:
        """Encode a window and round its audio tokens to units."""
        return self._hearing.window(mel)

    def start(self) -> Judging:
        """Begin a chunk."""
        return _Chunk(self)

    def read(self, windows: list[Window]) -> NDArray[np.float64]:
        """Return the answer [K] to a chunk's windows."""
        units = [window.units + self._first_unit for window in windows if window.units is not None]
        ids = np.concatenate((self._prefix, *units, self._suffix))
        logits = np.array(self._generator.forward_batch([ids.tolist()]))[0, -1]
        return self._hearing.pool(logits.astype(np.float64) + self._bias, windows)

    def versions(self) -> dict[str, str]:
        """Return the versions of CTranslate2 and ONNX Runtime."""
        return {name: metadata.version(name) for name in ("ctranslate2", "onnxruntime")}


class _Chunk:
    def __init__(self, stages: UnitStages) -> None:
        self._stages = stages
        self._windows: list[Window] = []

    def extend(self, window: Window) -> None:
        """Keep a window's units."""
        self._windows.append(window)

    def answer(self) -> NDArray[np.float64]:
        """Run the whole sequence."""
        return self._stages.read(self._windows)


def _generator(folder: Path, threads: int) -> Any:
    try:
        import ctranslate2
    except ImportError:
        raise BackendError(
            "this variant needs ctranslate2", mend="pip install 'asa-engine[recogniser]'"
        ) from None
    try:
        # "default": the precision that the files were written at.
        return ctranslate2.Generator(
            str(folder), compute_type="default", intra_threads=threads, inter_threads=1
        )
    except (RuntimeError, ValueError) as failure:
        raise BackendError(
            f"ctranslate2 cannot load {folder.name}: {failure}",
            mend="export the bundle again with this version of ctranslate2",
        ) from None
