"""The project's own kernels: the whole grader on the CPU, without any other runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.errors import BackendError, BundleError, CheckpointError
from asa_engine.files import read_json
from asa_engine.graders.acoustic.backends.base import Backend, Encoded, HeadOutput
from asa_engine.graders.acoustic.backends.packed import PackedShelf
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.entry import MIXED
from asa_engine.kernels import isa
from asa_engine.kernels.encoder import PRECISIONS, Encoder, pool
from asa_engine.kernels.head import Head
from asa_engine.kernels.laps import LapLog
from asa_engine.nn.acoustic_tensors import encoder_tensors, layer_weights
from asa_engine.nn.config import WHISPER_ENCODER_NAMES, WhisperEncoderConfig
from asa_engine.profiling import lap_sources

__all__ = ["NativeBackend", "WhisperEncoder"]


class WhisperEncoder:
    """Whisper's audio encoder, for those who only want that one, fast.

    Example:
        encoder = WhisperEncoder.load("whisper-tiny.en", precision="bf16")
        frames = encoder.encode(asa_engine.kernels.log_mel(samples))
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @classmethod
    def load(
        cls, folder: str | Path, precision: str | Sequence[str] = "bf16", threads: int = 1
    ) -> Self:
        """Read Hugging Face's `config.json` and `model.safetensors` and pack the encoder.

        Args:
            folder: The folder that holds both.
            precision: `fp32`, `bf16` or `int8`, or one of them for each layer.
            threads: Threads one call may use, 1 to 256.

        Raises:
            CheckpointError: A file is missing or damaged, or a tensor is missing, of another
                shape, or unknown.
            ValueError: A precision or thread count out of range, or not a precision a layer.
            BackendError: `ASA_CPU_ISA` names an instruction set this CPU lacks.
        """
        folder = Path(folder)
        fields = read_json(folder / "config.json", CheckpointError)
        sizes = {ours: fields.get(theirs) for ours, theirs in WHISPER_ENCODER_NAMES.items()}
        for ours, size in sizes.items():
            if type(size) is not int or not 1 <= size <= 100_000:
                raise CheckpointError(
                    f"{folder / 'config.json'}: {WHISPER_ENCODER_NAMES[ours]} is {size!r}",
                    hint="pass the folder of a Whisper model",
                )
        config = WhisperEncoderConfig(**sizes)  # type: ignore[arg-type]  # checked above
        tensors = Tensors(folder / "model.safetensors")
        return cls(_build(config, tensors, _prefix(tensors), precision, threads))

    def encode(self, mel: ArrayLike) -> NDArray[np.float32]:
        """Encode one log-mel window.

        Args:
            mel: float32 [n_mels, T], T from 1 to 3000 (twice the model's positions).

        Returns:
            The last hidden states, float32 [ceil(T / 2), D].

        Raises:
            ValueError: A wrong shape or dtype, NaN or infinity.
        """
        return self._encoder.encode([mel])[0]


class NativeBackend(Backend):
    """Runs encoder, pooling and head of a checkpoint's own weights."""

    name = "native"

    def __init__(
        self,
        config: AcousticConfig,
        tensors: Tensors,
        *,
        precision: str,
        threads: int,
        layers: Sequence[str] = (),
        shelf: PackedShelf | None = None,
    ) -> None:
        self.precision = precision
        self.threads = threads
        self._config = config
        weights = _read_head(config, tensors)
        self._head = Head(weights)
        self._attention = weights["attention.weight"], weights["attention.bias"]
        self._layer_weights = layer_weights(weights["layer_mix"]).tolist()
        self._encoder = _build(
            config.encoder,
            tensors,
            "encoder.",
            layers or precision,
            threads,
            packed=shelf.find if shelf else lambda words: None,
        )
        self._shelf = shelf
        if shelf:
            shelf.keep(self._encoder.packed)
        self._laps: LapLog | None = None
        if (sources := lap_sources()) is not None:
            self._encoder.record(True)
            self._laps = LapLog()
            sources += [self._encoder.take_laps, self._laps.take]

    @classmethod
    def open(cls, bundle: Bundle, *, precision: str, threads: int) -> Self:
        """Map the bundle's packed weights for this CPU, or pack those of its checkpoint."""
        if precision not in (*PRECISIONS, MIXED):
            raise BackendError(
                f"native runs at {', '.join(PRECISIONS)}, not {precision}",
                hint="name another precision",
            )
        isa()
        config = AcousticConfig.from_dict(bundle.config)
        layers = _read_layers(bundle, config.encoder.layers) if precision == MIXED else ()
        tensors = Tensors(bundle.path / WEIGHTS_NAME)
        shelf = PackedShelf(bundle, config.encoder, layers or (precision,))
        return cls(
            config, tensors, precision=precision, threads=threads, layers=layers, shelf=shelf
        )

    def write_packed(self, folder: Path) -> None:
        """Write the packed weights into a bundle that is being made, as a file of its own.

        Raises:
            BundleError: They cannot be written.
        """
        if self._shelf:
            self._shelf.put(folder, self._encoder.packed)

    def encode(self, mel: NDArray[np.float32], *, frames: bool = False) -> Encoded:
        """Encode one window; frames are returned only when asked for."""
        if self._config.kernel_centres:
            encoded, moments = self._encoder.encode_with_moments([mel], self._layer_weights)[0]
            stats = np.concatenate([self._pool(encoded), moments.ravel()])
        else:
            encoded = self._encoder.encode([mel], self._layer_weights)[0]
            stats = self._pool(encoded)
        return Encoded(stats, encoded if frames else None)

    def _pool(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._laps is None:
            return pool(frames, *self._attention)
        # A head's scores and its weighted sum are a multiply-add each, sums and squares three.
        heads = self._attention[0].shape[0]
        operations = frames.size * (4.0 * heads + 3)
        with self._laps.lap("pooling", operations, 4.0 * frames.size):
            return pool(frames, *self._attention)

    def head(self, stats: NDArray[np.float32]) -> HeadOutput:
        """Compute prior and scores."""
        return HeadOutput(*self._head(stats))


def _build(
    config: WhisperEncoderConfig,
    tensors: Tensors,
    prefix: str,
    precision: str | Sequence[str],
    threads: int,
    packed: Callable[[int], NDArray[np.int32] | None] = lambda words: None,
) -> Encoder:
    """Make an encoder; every tensor under the prefix must be one it has, and of its shape."""
    shapes = encoder_tensors(config)
    for name, shape in shapes.items():
        tensors.expect(prefix + name, shape)
    known = {prefix + name for name in shapes}
    unknown = {name for name in tensors.names() if name.startswith(prefix)} - known
    if unknown:
        raise CheckpointError(
            f"{tensors.path} has unknown {', '.join(sorted(unknown)[:3])}",
            hint="weights and configuration are not of one model",
        )
    return Encoder(
        config,
        lambda name, shape: tensors.read(prefix + name, shape),
        precision=precision,
        threads=threads,
        packed=packed,
    )


def _read_layers(bundle: Bundle, count: int) -> tuple[str, ...]:
    """Read the precision of each layer from the bundle's plan."""
    path = bundle.file("grader", "native", MIXED)
    layers = read_json(path, BundleError).get("layers")
    if (
        not isinstance(layers, list)
        or len(layers) != count
        or any(p not in PRECISIONS for p in layers)
    ):
        raise BundleError(
            f"{path} names no precision of {', '.join(PRECISIONS)} for each of {count} layers",
            hint="run 'asa-engine tune' again",
        )
    return tuple(layers)


def _prefix(tensors: Tensors) -> str:
    """Return what stands before the encoder's names: it depends on the class that saved them."""
    ends = "conv1.weight"
    for prefix in ("model.encoder.", "encoder.", ""):
        if prefix + ends in tensors.names():
            return prefix
    raise CheckpointError(
        f"{tensors.path} holds no Whisper encoder", hint="pass the folder of a Whisper model"
    )


def _read_head(config: AcousticConfig, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    shapes = config.shape.head_shapes()
    unknown = {name for name in tensors.names() if not name.startswith("encoder.")} - shapes.keys()
    if unknown:
        raise CheckpointError(
            f"{tensors.path} has unknown {', '.join(sorted(unknown)[:3])}",
            hint="weights and configuration are not of one model",
        )
    return {name: tensors.read(name, shape) for name, shape in shapes.items()}
