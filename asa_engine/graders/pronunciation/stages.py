"""The grader's two networks, on the kernels or in PyTorch, and its small tensors.

Encoder   log-mel window -> frames of two layers, sums over all layers
Writer    frames, text's tokens -> what the decoder says of each token
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.graders.pronunciation.config import PronunciationConfig
from asa_engine.graders.pronunciation.measures import Array
from asa_engine.kernels import isa, log_mel
from asa_engine.kernels.decoder import Decoder
from asa_engine.kernels.encoder import Encoder
from asa_engine.profiling import lap_sources
from asa_engine.recogniser.vocabulary import Vocabulary

__all__ = [
    "GROUP",
    "NEEDED",
    "Encoded",
    "NativeStages",
    "NetworkReader",
    "SmallTensors",
    "Stages",
    "Written",
    "eight_bits",
    "network_names",
    "open_native",
    "silence_of",
]

GROUP = 128
"""Inputs of a row that share a scale, where weights are stored in 8 bits: as the kernels do."""
QUIET_SAMPLES = 2 * 16_000
SCALE = ".scale"
_NETWORKS = ("encoder.", "decoder.")
NEEDED = (
    "usual", "phones.fc1.weight", "text.input.weight", "text.word1.weight", "text.kernel.centres",
    "free.input.weight", "free.kernel.centres", "omission.fc1.weight", "insertion.fc1.weight",
    "mismatch.fc1.weight",
)  # fmt: skip
"""A tensor of each of the grader's parts: what lacks one is no whole checkpoint."""


class Encoded(NamedTuple):
    """One window.

    Attributes:
        frames: The last layer but one and the last one side by side, float32 [T, 2 D].
        moments: Of every layer the sum of h, then of every layer the sum of h^2.
    """

    frames: Array
    moments: Array


class Written(NamedTuple):
    """What the decoder says of a text's tokens and of its end, N + 1 rows.

    Attributes:
        own: Log-probability of each token, [N + 1].
        best: That of the likeliest other.
        rank: How many are likelier.
        entropy: Of the distribution, nats.
        other: The likeliest other token.
        attended: Mean of the alignment heads' attention, [N + 1, T].
        att_entropy: Mean entropy of all heads' attention.
        att_peak: Mean of all heads' largest share.
    """

    own: Array
    best: Array
    rank: Array
    entropy: Array
    other: NDArray[np.int64]
    attended: Array
    att_entropy: Array
    att_peak: Array


class Stages(Protocol):
    """What the grader runs on."""

    @property
    def tensors(self) -> Mapping[str, Array]:
        """Everything but encoder and decoder, by the checkpoint's names."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The decoder's tokens."""

    def encode(self, mel: Array) -> Encoded:
        """Encode one log-mel window, float32 [n_mels, T]."""

    def write(self, frames: Array, tokens: Sequence[int]) -> Written:
        """Make the decoder write a text's tokens over frames of the last layer, [T, D]."""

    def write_quiet(self, tokens: Sequence[int]) -> Array:
        """Return the log-probabilities of a text's tokens and its end where nothing is heard."""

    def versions(self) -> dict[str, str]:
        """Return the libraries that the scores depend on."""


class SmallTensors(Mapping[str, Array]):
    """Everything of a checkpoint that is neither the encoder's nor the decoder's.

    Each is read when it is first asked for: who scores without a text reads no text's judge.
    """

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        names = (name for name in tensors.names() if not name.startswith(_NETWORKS))
        self._read: dict[str, Array | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> Array:
        if (found := self._read[name]) is None:
            found = self._read[name] = self._tensors.read(name, self._tensors.shape(name))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


class NativeStages:
    """Encoder and decoder on the engine's own kernels; the decoder is packed for the first text.

    Args:
        config: The grader's configuration.
        tensors: The checkpoint's.
        vocabulary: The decoder's tokens.
        precision: Of both: `fp32` or `int8`.
        threads: Threads a window is encoded with.
    """

    def __init__(
        self,
        config: PronunciationConfig,
        tensors: Tensors,
        vocabulary: Vocabulary,
        *,
        precision: str,
        threads: int,
    ) -> None:
        self.tensors = SmallTensors(tensors)
        self.vocabulary = vocabulary
        self._precision = precision
        self._file = tensors
        self._config = config
        self._encoder = Encoder(
            config.encoder,
            NetworkReader(tensors, "encoder."),
            precision=precision,
            threads=threads,
        )
        if (sources := lap_sources()) is not None:
            self._encoder.record(True)
            sources.append(self._encoder.take_laps)
        self._decoder: Decoder | None = None
        self._silence: Array | None = None
        self._turn = threading.Lock()  # the decoder holds the speech it was given last
        self._last_two = np.eye(config.encoder.layers + 1)[-2:]

    def encode(self, mel: Array) -> Encoded:
        """Encode one window."""
        ((frames, moments),) = self._encoder.encode_with_moments([mel], self._last_two)
        return Encoded(frames, moments.ravel())

    def write(self, frames: Array, tokens: Sequence[int]) -> Written:
        """Run all tokens at once."""
        vocabulary = self.vocabulary
        with self._turn:
            decoder = self._opened()
            decoder.start(np.ascontiguousarray(frames))
            found = decoder.force(
                (*vocabulary.prompt, *tokens, vocabulary.end),
                len(vocabulary.prompt),
                self._config.flat_heads,
            )
        return Written(
            found.own,
            found.best,
            found.rank.astype(np.float32),
            found.entropy,
            found.other.astype(np.int64),
            found.attended,
            found.attended_entropy,
            found.attended_peak,
        )

    def _opened(self) -> Decoder:
        """Return the decoder; whoever asks has the turn."""
        if self._decoder is None:
            read = NetworkReader(self._file, "decoder.")
            self._decoder = Decoder(
                self._config.decoder, read, precision=self._precision, rows=read.rows
            )
        return self._decoder

    def write_quiet(self, tokens: Sequence[int]) -> Array:
        """Run the tokens over two seconds of silence."""
        if self._silence is None:
            self._silence = silence_of(self)
        return self.write(self._silence, tokens).own

    def versions(self) -> dict[str, str]:
        """Return the kernels' instruction set."""
        return {"kernels": isa()}


def silence_of(stages: Stages) -> Array:
    """Return the last layer's frames of two seconds of silence."""
    frames = stages.encode(log_mel(np.zeros(QUIET_SAMPLES, np.float32))).frames
    return np.ascontiguousarray(frames[:, frames.shape[1] // 2 :])


def eight_bits(
    state: Mapping[str, NDArray[np.generic]], prefix: str
) -> dict[str, NDArray[np.generic]]:
    """Return a network's tensors as a checkpoint stores them: matrices in 8 bits.

    Every `GROUP` inputs of a row share a scale; rows of other lengths, and positions, stay
    float16, vectors float32.

    Args:
        state: Name -> tensor.
        prefix: `encoder.` or `decoder.`.
    """
    stored: dict[str, NDArray[np.generic]] = {}
    for name, value in state.items():
        full = value.astype(np.float32)
        if full.ndim != 2 or full.shape[1] % GROUP or "position" in name:
            stored[f"{prefix}{name}"] = full.astype(np.float16 if full.ndim > 1 else np.float32)
            continue
        groups = full.reshape(len(full), -1, GROUP)
        scale = (np.abs(groups).max(2) / 127).astype(np.float32)
        whole = np.rint(groups / np.maximum(scale, 1e-12)[..., None])
        stored[f"{prefix}{name}"] = whole.astype(np.int8).reshape(full.shape)
        stored[f"{prefix}{name}{SCALE}"] = scale
    return stored


def network_names(tensors: Tensors, prefix: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's tensors by the names they had without a prefix."""
    return {
        name.removeprefix(prefix): tensors.shape(name)
        for name in tensors.names()
        if name.startswith(prefix) and not name.endswith(SCALE)
    }


class NetworkReader:
    """Reads a network's tensors by the names they had without a prefix, as float32.

    Args:
        tensors: The checkpoint's.
        prefix: `encoder.` or `decoder.`.
    """

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self._tensors = tensors
        self._prefix = prefix
        self._names = set(tensors.names())

    def __call__(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return a tensor of this shape."""
        if f"{self._prefix}{name}{SCALE}" not in self._names:
            return self._tensors.read(f"{self._prefix}{name}", shape)
        return self.rows(name, shape, 0, shape[0])

    def rows(self, name: str, shape: tuple[int, ...], first: int, end: int) -> Array:
        """Return rows from `first` to before `end` of a tensor of this shape."""
        name = f"{self._prefix}{name}"
        found = self._tensors.rows(name, shape, first, end)
        if f"{name}{SCALE}" not in self._names:
            return found
        scales = (shape[0], shape[1] // GROUP)
        scale = self._tensors.rows(f"{name}{SCALE}", scales, first, end)
        groups = found.reshape(*scale.shape, GROUP)
        groups *= scale[..., None]
        return found


def open_native(bundle: Bundle, precision: str, threads: int) -> NativeStages:
    """Open a bundle on the kernels."""
    config = PronunciationConfig.from_dict(bundle.config)
    return NativeStages(
        config,
        Tensors(bundle.path / WEIGHTS_NAME),
        Vocabulary.read(bundle.path),
        precision=precision,
        threads=threads,
    )
