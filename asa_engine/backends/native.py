"""The project's own kernels: the whole grader on the CPU, without any other runtime."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asa_engine.backends.base import Availability, Backend, Encoded, HeadOutput
from asa_engine.backends.safetensors import Tensors
from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.errors import AsaError, BackendError, CheckpointError
from asa_engine.files import read_json
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.kernels import isa
from asa_engine.kernels.encoder import PRECISIONS, Encoder, pool
from asa_engine.nn.config import WhisperEncoderConfig
from asa_engine.profiling import lap_sources

__all__ = ["NativeBackend", "WhisperEncoder"]

_VARIANCE_FLOOR = 1e-5
_REFERENCE_FRAMES = 175.0
_LOG_FRAMES_SCALE = 0.5
_LOG_FRAMES_RANGE = (-2.0, 3.5)
_LARGE = ("kernel_projection", "kernel_centres")
_CONFIG_FIELDS = {
    "n_mels": "num_mel_bins",
    "d_model": "d_model",
    "layers": "encoder_layers",
    "heads": "encoder_attention_heads",
    "ffn": "encoder_ffn_dim",
    "positions": "max_source_positions",
}

_Vector = NDArray[np.float64]


class WhisperEncoder:
    """Whisper's audio encoder, for those who only want that one, fast.

    Example:
        encoder = WhisperEncoder.load("whisper-tiny.en", precision="bf16")
        frames = encoder.encode(asa_engine.kernels.log_mel(samples))
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @classmethod
    def load(cls, folder: str | Path, precision: str = "bf16", threads: int = 1) -> Self:
        """Read Hugging Face's `config.json` and `model.safetensors` and pack the encoder.

        Args:
            folder: The folder that holds both.
            precision: `fp32`, `bf16` or `int8`.
            threads: Threads one call may use, 1 to 256.

        Raises:
            CheckpointError: A file is missing or damaged, or a tensor is missing, of another
                shape, or unknown.
            ValueError: A precision or thread count out of range.
            BackendError: `ASA_CPU_ISA` names an instruction set this CPU lacks.
        """
        folder = Path(folder)
        fields = read_json(folder / "config.json", CheckpointError)
        sizes = {ours: fields.get(theirs) for ours, theirs in _CONFIG_FIELDS.items()}
        for ours, size in sizes.items():
            if type(size) is not int or not 1 <= size <= 100_000:
                raise CheckpointError(
                    f"{folder / 'config.json'}: {_CONFIG_FIELDS[ours]} is {size!r}",
                    mend="pass the folder of a Whisper model",
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
        self, config: AcousticConfig, tensors: Tensors, *, precision: str, threads: int
    ) -> None:
        self.precision = precision
        self.threads = threads
        self._config = config
        self._head = _read_head(config, tensors)
        self._head64 = {
            name: weight.astype(np.float64)
            for name, weight in self._head.items()
            if name not in _LARGE
        }
        mix = np.exp(self._head64["layer_mix"])
        self._layer_weights = [float(weight) for weight in mix / mix.sum()]
        self._encoder = _build(config.encoder, tensors, "encoder.", precision, threads)
        if (sources := lap_sources()) is not None:
            self._encoder.record(True)
            sources.append(self._encoder.take_laps)

    @classmethod
    def availability(cls) -> Availability:
        """Usable everywhere, unless `ASA_CPU_ISA` asks for what the CPU lacks."""
        try:
            return Availability(True, f"kernels for {isa()}")
        except AsaError as error:
            return Availability(False, str(error))

    @classmethod
    def open(cls, bundle: Bundle, *, precision: str, threads: int) -> Self:
        """Pack the weights of the bundle's checkpoint."""
        if precision not in PRECISIONS:
            raise BackendError(
                f"native runs at {', '.join(PRECISIONS)}, not {precision}",
                mend="name another precision",
            )
        isa()
        config = AcousticConfig.from_dict(bundle.config)
        tensors = Tensors(bundle.path / WEIGHTS_NAME)
        return cls(config, tensors, precision=precision, threads=threads)

    def encode(self, mel: NDArray[np.float32], *, frames: bool = False) -> Encoded:
        """Encode one window; frames are handed out only when asked for."""
        attention = self._head["attention.weight"], self._head["attention.bias"]
        if self._config.kernel_centres:
            encoded, moments = self._encoder.encode_with_moments([mel], self._layer_weights)[0]
            stats = np.concatenate([pool(encoded, *attention), moments.ravel()])
        else:
            encoded = self._encoder.encode([mel], self._layer_weights)[0]
            stats = pool(encoded, *attention)
        return Encoded(stats, encoded if frames else None)

    def head(self, stats: NDArray[np.float32]) -> HeadOutput:
        """Compute prior and scores, in float64: it is a few thousand products."""
        weights, width = self._head64, self._config.encoder.d_model
        heads = self._config.attention_heads
        count, total, squares, attention, weighted, moments = np.split(
            stats.astype(np.float64), np.cumsum([1, width, width, heads, heads * width])
        )
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, _VARIANCE_FLOOR))
        attended = weighted.reshape(heads, width) / attention[:, None]

        hidden = _gelu(_linear(weights, "prior_fc1", _layer_norm(weights, "prior_norm", mean)))
        logits = _linear(weights, "prior_fc2", hidden)
        prior = np.exp(logits - logits.max())
        prior /= prior.sum()

        pooled = [
            _layer_norm(weights, f"pool_norms.{i}", part)
            for i, part in enumerate((mean, deviation, *attended))
        ]
        duration = np.log(count / _REFERENCE_FRAMES) / _LOG_FRAMES_SCALE
        features = np.concatenate(
            [*pooled, _linear(weights, "prior_projector", prior), duration.clip(*_LOG_FRAMES_RANGE)]
        )
        hidden = _gelu(_linear(weights, "head_fc1", features))
        scores = weights["score_mean"] + weights["score_std"] * _linear(weights, "head_fc2", hidden)
        if self._config.kernel_centres:
            share = weights["blend"]
            scores = share * scores + (1 - share) * self._kernel_scores(count, moments, duration)
        return HeadOutput(scores.astype(np.float32), prior.astype(np.float32))

    def _kernel_scores(self, count: _Vector, moments: _Vector, duration: _Vector) -> _Vector:
        """Regress on the layers' means and deviations with a Gaussian kernel.

        The two large arrays stay in float32: reading them is what this costs.
        """
        weights, large = self._head64, self._head
        means, squares = np.split(moments / count, 2)
        deviations = np.sqrt(np.maximum(squares - means**2, _VARIANCE_FLOOR))
        layers = np.concatenate([means, deviations])
        place = np.concatenate(
            [
                large["kernel_projection"] @ layers.astype(np.float32) + weights["kernel_bias"],
                duration.clip(*_LOG_FRAMES_RANGE) * weights["kernel_duration"],
            ]
        )
        apart = large["kernel_centres"] - place.astype(np.float32)
        near = np.exp(-np.einsum("ij,ij->i", apart, apart))
        scores: _Vector = weights["kernel_weights"] @ near + weights["kernel_mean"]
        return scores


def _build(
    config: WhisperEncoderConfig, tensors: Tensors, prefix: str, precision: str, threads: int
) -> Encoder:
    """Pack an encoder; every tensor under the prefix must be one it has."""
    unread = {name for name in tensors.names() if name.startswith(prefix)}

    def read(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        unread.discard(prefix + name)
        return tensors.read(prefix + name, shape)

    encoder = Encoder(config, read, precision=precision, threads=threads)
    if unread:
        raise CheckpointError(
            f"{tensors.path} has unknown {', '.join(sorted(unread)[:3])}",
            mend="weights and configuration are not of one model",
        )
    return encoder


def _prefix(tensors: Tensors) -> str:
    """Return what stands before the encoder's names: it depends on the class that saved them."""
    ends = "conv1.weight"
    for prefix in ("model.encoder.", "encoder.", ""):
        if prefix + ends in tensors.names():
            return prefix
    raise CheckpointError(
        f"{tensors.path} holds no Whisper encoder", mend="pass the folder of a Whisper model"
    )


def _read_head(config: AcousticConfig, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    width, heads = config.encoder.d_model, config.attention_heads
    levels, aspects = len(config.prior_levels), len(config.aspects)
    features = (2 + heads) * width + config.prior_embedding + 1
    shapes: dict[str, tuple[int, ...]] = {
        "layer_mix": (config.encoder.layers + 1,),
        "attention.weight": (heads, width),
        "attention.bias": (heads,),
        "prior_norm.weight": (width,),
        "prior_norm.bias": (width,),
        "prior_fc1.weight": (config.prior_width, width),
        "prior_fc1.bias": (config.prior_width,),
        "prior_fc2.weight": (levels, config.prior_width),
        "prior_fc2.bias": (levels,),
        "prior_projector.weight": (config.prior_embedding, levels),
        "prior_projector.bias": (config.prior_embedding,),
        "head_fc1.weight": (config.head_width, features),
        "head_fc1.bias": (config.head_width,),
        "head_fc2.weight": (aspects, config.head_width),
        "head_fc2.bias": (aspects,),
        "score_mean": (aspects,),
        "score_std": (aspects,),
    }
    for i in range(2 + heads):
        shapes[f"pool_norms.{i}.weight"] = shapes[f"pool_norms.{i}.bias"] = (width,)
    if config.kernel_centres:
        centres, place = config.kernel_centres, config.kernel_width
        shapes |= {
            "blend": (aspects,),
            "kernel_projection": (place, 2 * (config.encoder.layers + 1) * width),
            "kernel_bias": (place,),
            "kernel_duration": (1,),
            "kernel_centres": (centres, place + 1),
            "kernel_weights": (aspects, centres),
            "kernel_mean": (aspects,),
        }
    unknown = {name for name in tensors.names() if not name.startswith("encoder.")} - shapes.keys()
    if unknown:
        raise CheckpointError(
            f"{tensors.path} has unknown {', '.join(sorted(unknown)[:3])}",
            mend="weights and configuration are not of one model",
        )
    return {name: tensors.read(name, shape) for name, shape in shapes.items()}


def _linear(weights: dict[str, _Vector], name: str, x: _Vector) -> _Vector:
    result: _Vector = weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]
    return result


def _layer_norm(weights: dict[str, _Vector], name: str, x: _Vector) -> _Vector:
    normal = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    result: _Vector = normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return result


def _gelu(x: _Vector) -> _Vector:
    return np.array([value / 2 * (1 + math.erf(value / math.sqrt(2))) for value in x])
