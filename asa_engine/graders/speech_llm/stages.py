"""The speech LLM's stages at run time: windows to audio tokens, audio tokens to answers.

Whisper's encoder runs on the project's kernels, and so may the language model; an audio language
model's own encoder and projectors run on ONNX Runtime; what reads the answer off the last hidden
state is a few rows, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.artifacts.onnx_graph import external_files
from asa_engine.artifacts.safetensors import Tensors
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.prior import KernelPrior, pool_answer
from asa_engine.kernels.dense import matrix_vector
from asa_engine.kernels.encoder import Encoder
from asa_engine.language_model.base import CausalModel, CausalSequence
from asa_engine.language_model.opening import open_model
from asa_engine.nn.config import AudioEncoderConfig
from asa_engine.runtimes.onnxruntime import OnnxRuntime, session

if TYPE_CHECKING:
    from asa_engine.graders.speech_llm.model import SpeechLLM

__all__ = [
    "AudioStage",
    "ChunkRun",
    "ClipAudioStage",
    "KeptChunk",
    "SpeechLLMStages",
    "Stages",
    "TorchStages",
    "Window",
    "WindowAudioStage",
    "open_audio_stage",
]

_MAPPED_BYTES = 2**28
"""Weights of an encoder above which they are left mapped, at half precision."""
_ENCODER_PRECISION: Mapping[str, str] = {
    "fp32": "fp32",
    "fp16": "fp32",
    "bf16": "bf16",
    "int8": "int8",
    "int4": "int8",
}


class Window(NamedTuple):
    """What a window leaves behind.

    Attributes:
        tokens: Audio tokens, float32 [n, W].
        sums: Count of frames, sums of every layer's h, then of h^2, float64 [1 + M]; None where
            there is no prior.
        units: The tokens' numbers in the codebook, int64 [n]; None where there is none.
    """

    tokens: NDArray[np.float32]
    sums: NDArray[np.float64] | None = None
    units: NDArray[np.int64] | None = None


class ChunkRun(Protocol):
    """One chunk of audio in front of the language model."""

    def extend(self, window: Window) -> None:
        """Take a further window."""

    def answer(self, last: Window | None = None) -> NDArray[np.float64]:
        """Take a last window, if one is given, and answer for what is here.

        Returns:
            The labels' logits, or a regression's outputs, [K].
        """


class Stages(Protocol):
    """Everything that scores, loaded and ready; used by any number of threads."""

    def window(self, mel: NDArray[np.float32]) -> Window:
        """Encode one window [n_mels, T]."""

    def start(self) -> ChunkRun:
        """Begin a chunk."""

    def versions(self) -> dict[str, str]:
        """Return the libraries that the scores depend on."""


class AudioStage(Protocol):
    """From windows to audio tokens, and what is known of the windows beside the tokens."""

    def window(self, mel: NDArray[np.float32]) -> Window:
        """Encode a window [n_mels, T] and project its frames."""

    def pool(self, answer: NDArray[np.float64], windows: Iterable[Window]) -> NDArray[np.float64]:
        """Pool the language model's answer [K] to windows with what is known beside it."""


def open_audio_stage(
    config: SpeechLLMConfig,
    files: Mapping[str, Path],
    head: Tensors,
    *,
    precision: str,
    threads: int,
) -> AudioStage:
    """Load a variant's files `encoder` and `projector`.

    Raises:
        BackendError: ONNX Runtime cannot load a graph.
        CheckpointError: A tensor is missing or of another shape.
    """
    encoder, projector = files["encoder"], files["projector"]
    if isinstance(config.encoder, AudioEncoderConfig):
        return ClipAudioStage(config, encoder, projector, threads=threads)
    return WindowAudioStage(config, encoder, projector, head, precision=precision, threads=threads)


class ClipAudioStage:
    """An audio language model's own encoder and projector, in float32 at every precision.

    Args:
        config: The grader's configuration.
        encoder: The encoder's graph.
        projector: The projector's; with a codebook it also says the units.
        threads: Threads that one call may use.

    Raises:
        BackendError: ONNX Runtime cannot load a graph.
    """

    def __init__(
        self, config: SpeechLLMConfig, encoder: Path, projector: Path, *, threads: int
    ) -> None:
        self._config = config
        large = sum((encoder.parent / name).stat().st_size for name in external_files(encoder))
        self._encoder = session(encoder, threads, mapped=large > _MAPPED_BYTES)
        self._projector = session(projector, threads)

    def window(self, mel: NDArray[np.float32]) -> Window:
        """Encode a window [n_mels, T] and project its frames."""
        (frames,) = self._encoder.run(["frames"], {"mel": mel})
        return _project(self._config, self._projector, frames)

    def pool(self, answer: NDArray[np.float64], windows: Iterable[Window]) -> NDArray[np.float64]:
        """Return the answer: there is nothing beside it."""
        return answer


class WindowAudioStage:
    """From windows to audio tokens and sums, and the acoustic prior that speaks of the sums.

    Args:
        config: The grader's configuration.
        encoder: Tensors of the Whisper encoder.
        projector: The projector's graph; with a codebook it also says the units.
        head: Tensors `layer_weights` [layers + 1] and `prior.*`, those of `prior_shapes`.
        precision: `fp32`, `int8` or `int4`; with a codebook the encoder stays at float32.
        threads: Threads that one call may use.

    Raises:
        BackendError: ONNX Runtime cannot load the graph.
        CheckpointError: A tensor is missing or of another shape.
    """

    def __init__(
        self,
        config: SpeechLLMConfig,
        encoder: Path,
        projector: Path,
        head: Tensors,
        *,
        precision: str,
        threads: int,
    ) -> None:
        self._config = config
        self._layer_weights = head.read("layer_weights", (config.encoder.layers + 1,)).tolist()
        self._prior: KernelPrior | None = None
        if config.prior.centres:
            self._prior = KernelPrior(config, lambda name, s: head.read(f"prior.{name}", s))
        self._encoder = Encoder(
            config.encoder,
            Tensors(encoder).read,
            # A frame that moves a little may be another unit, which is another word.
            precision="fp32" if config.units else _ENCODER_PRECISION[precision],
            threads=threads,
        )
        self._projector = session(projector, threads)

    def window(self, mel: NDArray[np.float32]) -> Window:
        """Encode a window [n_mels, T] and project its frames."""
        sums = None
        if self._prior is None:
            (frames,) = self._encoder.encode([mel], self._layer_weights)
        else:
            ((frames, moments),) = self._encoder.encode_with_moments([mel], self._layer_weights)
            sums = np.concatenate(([len(frames)], moments.ravel().astype(np.float64)))
        return _project(self._config, self._projector, frames)._replace(sums=sums)

    def pool(self, answer: NDArray[np.float64], windows: Iterable[Window]) -> NDArray[np.float64]:
        """Pool the language model's answer [K] to windows with what the prior says of them."""
        if self._prior is None:
            return answer
        sums = np.sum([w.sums for w in windows if w.sums is not None], axis=0)
        return pool_answer(self._config, answer, self._prior.score(sums))


def _project(config: SpeechLLMConfig, projector: Any, frames: NDArray[np.float32]) -> Window:
    names = ["tokens", "units"] if config.units else ["tokens"]
    tokens, *units = projector.run(names, {"frames": frames})
    return Window(tokens, units=units[0].astype(np.int64) if units else None)


class SpeechLLMStages:
    """The stages of a bundle.

    The prompt's beginning was run at float32 by the exporter, whatever the variant: every chunk
    starts from a copy of its keys and values. A language model's first positions are by far its
    largest, and all others attend to them: exact there, rounding elsewhere costs little.

    Args:
        config: The grader's configuration.
        audio: What comes before the language model.
        decoder: The language model.
        head: Tensors `prefix`, keys and values of the prompt's beginning
            [2, layers, heads, P, head_width]; `suffix` [S, W]; `answer.weight` [K, W];
            `answer.bias` [K].

    Raises:
        CheckpointError: A tensor is missing or of another shape.
        UsageError: The longest sequence does not fit the language model or the memory limit.
    """

    def __init__(
        self, config: SpeechLLMConfig, audio: AudioStage, decoder: CausalModel, head: Tensors
    ) -> None:
        decoder.check(config.longest_sequence)
        self._longest = config.longest_sequence
        width, prompt = config.language_model.width, config.prompt
        answers = len(prompt.labels) or len(config.aspects)
        shape = (2, decoder.layers, decoder.heads, len(prompt.prefix_ids), decoder.head_width)
        self._trunk = decoder.resume(head.read("prefix", shape))
        self._suffix = head.read("suffix", (len(prompt.suffix_ids), width))
        self._weight = head.read("answer.weight", (answers, width)).astype(np.float64)
        self._bias = head.read("answer.bias", (answers,)).astype(np.float64)
        self._audio = audio

    @classmethod
    def open(
        cls,
        config: SpeechLLMConfig,
        files: Mapping[str, Path],
        *,
        precision: str,
        threads: int,
        device: str = "",
    ) -> Self:
        """Load a variant's files: `encoder`, `projector`, `language_model`, `head`.

        A graph of a language model runs on the `device`, "cuda" or "" for the CPU; all else on the
        CPU.

        Raises:
            BackendError: ONNX Runtime cannot load a graph.
            BundleError: The language model's file is not one.
            CheckpointError: A tensor is missing or of another shape.
        """
        head = Tensors(files["head"])
        audio = open_audio_stage(config, files, head, precision=precision, threads=threads)
        decoder = open_model(files["language_model"], threads=threads, device=device)
        return cls(config, audio, decoder, head)

    def window(self, mel: NDArray[np.float32]) -> Window:
        """Encode a window and project its frames."""
        return self._audio.window(mel)

    def start(self) -> ChunkRun:
        """Begin a chunk behind the prompt's beginning."""
        return _Chunk(self, self._trunk.fork(self._longest))

    def read(
        self, sequence: CausalSequence, windows: Iterable[Window], last: Window | None
    ) -> NDArray[np.float64]:
        """Run a last window and the prompt's end in one pass, read the answer [K], forget the end.

        A pass over few rows takes as long as the weights take to come.
        """
        length, rows = sequence.length, self._suffix
        if last is not None:
            length += len(last.tokens)
            rows = np.concatenate([last.tokens, rows])
        hidden = sequence.extend(rows, 1)[-1].astype(np.float64)
        sequence.rewind(length)
        return self._audio.pool(matrix_vector(self._weight, hidden) + self._bias, windows)

    def versions(self) -> dict[str, str]:
        """Return ONNX Runtime's version."""
        return OnnxRuntime.availability().versions


class _Chunk:
    """A chunk's keys and values; they grow while its audio comes."""

    def __init__(self, stages: SpeechLLMStages, sequence: CausalSequence) -> None:
        self._stages = stages
        self._sequence = sequence
        self._windows: list[Window] = []

    def extend(self, window: Window) -> None:
        """Prefill a window's audio tokens."""
        self._sequence.extend(window.tokens, 0)
        self._windows.append(window)

    def answer(self, last: Window | None = None) -> NDArray[np.float64]:
        """Answer for what is here and a last window."""
        if last is not None:
            self._windows.append(last)
        return self._stages.read(self._sequence, self._windows, last)


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

    def start(self) -> ChunkRun:
        """Begin a chunk."""
        return KeptChunk(self.read)

    def read(self, windows: Sequence[Window]) -> NDArray[np.float64]:
        """Return the answer [K] to a chunk's windows."""
        import torch

        grader = self.grader
        with torch.inference_mode():
            tokens = np.concatenate([window.tokens for window in windows])
            sequences = grader.sequences([torch.from_numpy(tokens)])
            prefix = grader.prefix(0, grader.layers)
            answer = grader.answer(grader.run(sequences, 0, grader.layers, prefix))
            if grader.config.prior.centres:
                sums = torch.from_numpy(
                    np.sum([w.sums for w in windows if w.sums is not None], axis=0)
                )
                answer = grader.prior.pool(answer, grader.prior(sums[None]))
            logits: NDArray[np.float64] = answer[0].double().numpy()
        return logits

    def versions(self) -> dict[str, str]:
        """Return the versions of PyTorch and transformers."""
        return {name: metadata.version(name) for name in ("torch", "transformers")}


class KeptChunk:
    """A chunk whose windows are kept until it is asked.

    Args:
        read: Returns the answer [K] to a chunk's windows.
    """

    def __init__(self, read: Callable[[Sequence[Window]], NDArray[np.float64]]) -> None:
        self._read = read
        self._windows: list[Window] = []

    def extend(self, window: Window) -> None:
        """Keep a window."""
        self._windows.append(window)

    def answer(self, last: Window | None = None) -> NDArray[np.float64]:
        """Run the whole sequence."""
        if last is not None:
            self.extend(last)
        return self._read(self._windows)
