"""The speech LLM's stages at run time: windows to audio tokens, audio tokens to answers.

The encoder runs on the project's kernels; projector and language model on ONNX Runtime; what reads
the answer off the last hidden state is a few rows, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.backends.onnxruntime import session
from asa_engine.backends.safetensors import Tensors
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.prior import KernelPrior, pool_answer
from asa_engine.kernels.encoder import Encoder
from asa_engine.language_model.decoder import Decoder, Sequence

if TYPE_CHECKING:
    from asa_engine.graders.speech_llm.model import SpeechLLM

__all__ = ["Judging", "SpeechLLMStages", "Stages", "TorchStages", "Window"]

_ENCODER_PRECISION: Mapping[str, str] = {"fp32": "fp32", "int8": "int8", "int4": "int8"}


class Window(NamedTuple):
    """What a window leaves behind.

    Attributes:
        tokens: Audio tokens, float32 [n, W].
        sums: Count of frames, sums of every layer's h, then of h^2, float64 [1 + M]; None where
            there is no prior.
    """

    tokens: NDArray[np.float32]
    sums: NDArray[np.float64] | None


class Judging(Protocol):
    """One chunk of audio in front of the language model."""

    def extend(self, window: Window) -> None:
        """Take a further window."""

    def answer(self) -> NDArray[np.float64]:
        """Return the labels' logits, or a regression's outputs, [K], for what is here."""


class Stages(Protocol):
    """Everything that scores, loaded and ready; used by any number of threads."""

    def window(self, mel: NDArray[np.float32]) -> Window:
        """Encode one window [n_mels, T]."""

    def start(self) -> Judging:
        """Begin a chunk."""

    def versions(self) -> dict[str, str]:
        """Return the libraries that the scores depend on."""


class SpeechLLMStages:
    """The stages of a bundle.

    The prompt's beginning was run at float32 by the exporter, whatever the variant: every chunk
    starts from a copy of its keys and values. A language model's first positions are by far its
    largest, and all others attend to them: exact there, rounding elsewhere costs little.

    Args:
        config: The grader's configuration.
        encoder: Tensors of the Whisper encoder.
        projector: The projector's graph.
        decoder: The language model.
        head: Tensors `layer_weights` [layers + 1]; `prefix`, keys and values of the prompt's
            beginning [2, layers, heads, P, head_width]; `suffix` [S, W]; `answer.weight` [K, W];
            `answer.bias` [K]; `prior.*`, those of `prior_shapes`.
        precision: `fp32`, `int8` or `int4`.
        threads: Threads that one call may use.

    Raises:
        CheckpointError: A tensor is missing or of another shape.
        UsageError: The longest sequence does not fit the language model or the memory limit.
    """

    def __init__(
        self,
        config: SpeechLLMConfig,
        encoder: Path,
        projector: Path,
        decoder: Decoder,
        head: Path,
        *,
        precision: str,
        threads: int,
    ) -> None:
        decoder.check(config.longest_sequence)
        self._longest = config.longest_sequence
        tensors = Tensors(head)
        width, prompt = config.language_model.width, config.prompt
        answers = len(prompt.labels) or len(config.aspects)
        self._layer_weights = tensors.read("layer_weights", (config.encoder.layers + 1,)).tolist()
        shape = (2, decoder.layers, decoder.heads, len(prompt.prefix_ids), decoder.head_width)
        self._trunk = decoder.resume(tensors.read("prefix", shape))
        self._suffix = tensors.read("suffix", (len(prompt.suffix_ids), width))
        self._weight = tensors.read("answer.weight", (answers, width)).astype(np.float64)
        self._bias = tensors.read("answer.bias", (answers,)).astype(np.float64)
        self.config = config
        self.prior: KernelPrior | None = None
        if config.prior.centres:
            self.prior = KernelPrior(config, lambda name, s: tensors.read(f"prior.{name}", s))
        self._encoder = Encoder(
            config.encoder,
            Tensors(encoder).read,
            precision=_ENCODER_PRECISION[precision],
            threads=threads,
        )
        self._projector = session(projector, threads)

    @classmethod
    def open(
        cls, config: SpeechLLMConfig, files: Mapping[str, Path], *, precision: str, threads: int
    ) -> Self:
        """Load a variant's files: `encoder`, `projector`, `language_model`, `head`.

        Raises:
            BackendError: ONNX Runtime cannot load a graph.
            BundleError: The language model's graph is not one.
            CheckpointError: A tensor is missing or of another shape.
        """
        return cls(
            config,
            files["encoder"],
            files["projector"],
            Decoder.open(files["language_model"], threads=threads),
            files["head"],
            precision=precision,
            threads=threads,
        )

    def window(self, mel: NDArray[np.float32]) -> Window:
        """Encode a window and project its frames."""
        sums = None
        if self.prior is None:
            (frames,) = self._encoder.encode([mel], self._layer_weights)
        else:
            ((frames, moments),) = self._encoder.encode_with_moments([mel], self._layer_weights)
            sums = np.concatenate(([len(frames)], moments.ravel().astype(np.float64)))
        return Window(self._projector.run(["tokens"], {"frames": frames})[0], sums)

    def start(self) -> Judging:
        """Begin a chunk behind the prompt's beginning."""
        return _Chunk(self, self._trunk.fork(self._longest))

    def read(self, hidden: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the answer [K] that a hidden state [W] gives."""
        found: NDArray[np.float64] = self._weight @ hidden.astype(np.float64) + self._bias
        return found

    @property
    def suffix(self) -> NDArray[np.float32]:
        """Embeddings of the prompt's end, float32 [S, W]."""
        return self._suffix

    def versions(self) -> dict[str, str]:
        """Return ONNX Runtime's version."""
        return {"onnxruntime": metadata.version("onnxruntime")}


class _Chunk:
    """A chunk's keys and values; they grow while its audio comes."""

    def __init__(self, stages: SpeechLLMStages, sequence: Sequence) -> None:
        self._stages = stages
        self._sequence = sequence
        self._sums: NDArray[np.float64] | None = None

    def extend(self, window: Window) -> None:
        """Prefill a window's audio tokens and add its sums."""
        self._sequence.extend(window.tokens)
        if window.sums is not None:
            self._sums = window.sums if self._sums is None else self._sums + window.sums

    def answer(self) -> NDArray[np.float64]:
        """Run the prompt's end, read the answer, and forget the prompt's end again."""
        length = self._sequence.length
        hidden = self._sequence.extend(self._stages.suffix)[-1]
        self._sequence.rewind(length)
        answer = self._stages.read(hidden)
        if self._stages.prior is None or self._sums is None:
            return answer
        return pool_answer(self._stages.config, answer, self._stages.prior.score(self._sums))


class TorchStages:
    """The PyTorch reference behind the same interface; it computes a chunk when asked for it."""

    def __init__(self, grader: SpeechLLM) -> None:
        self.grader = grader

    def window(self, mel: NDArray[np.float32]) -> Window:
        """Encode a window and project its frames."""
        import torch

        with torch.inference_mode():
            tokens, sums = self.grader.window(mel)
        return Window(tokens.numpy(), sums.numpy())

    def start(self) -> Judging:
        """Begin a chunk."""
        return _TorchChunk(self.grader)

    def versions(self) -> dict[str, str]:
        """Return the versions of PyTorch and transformers."""
        return {name: metadata.version(name) for name in ("torch", "transformers")}


class _TorchChunk:
    def __init__(self, grader: SpeechLLM) -> None:
        self._grader = grader
        self._windows: list[Window] = []

    def extend(self, window: Window) -> None:
        """Keep a window."""
        self._windows.append(window)

    def answer(self) -> NDArray[np.float64]:
        """Run the whole sequence."""
        import torch

        grader = self._grader
        with torch.inference_mode():
            tokens = np.concatenate([window.tokens for window in self._windows])
            sequences = grader.sequences([torch.from_numpy(tokens)])
            prefix = grader.prefix(0, grader.layers)
            answer = grader.answer(grader.run(sequences, 0, grader.layers, prefix))
            if grader.config.prior.centres:
                sums = torch.from_numpy(np.sum([window.sums for window in self._windows], axis=0))
                answer = grader.prior.pool(answer, grader.prior(sums[None]))
            found: NDArray[np.float64] = answer[0].double().numpy()
        return found
