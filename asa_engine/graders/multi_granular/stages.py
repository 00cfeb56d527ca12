"""The multi-granular grader's stages at run time, and the PyTorch reference behind the same face.

Language model on ONNX Runtime, everything small in NumPy. The encoder is float32 in every variant:
a graph of ONNX Runtime at fp32, whose budget the kernels' float32, 2e-5 from PyTorch's, would use
up; at int8 the kernels'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.errors import CheckpointError, UsageError
from asa_engine.features.phone_alignment import Alignment
from asa_engine.graders.multi_granular import parts
from asa_engine.graders.multi_granular.config import MultiGranularConfig
from asa_engine.graders.multi_granular.plan import Plan
from asa_engine.graders.multi_granular.script import label_choice
from asa_engine.kernels.encoder import Encoder
from asa_engine.language_model.decoder import Decoder
from asa_engine.language_model.tokens import TextTokens
from asa_engine.runtimes.onnxruntime import OnnxRuntime, session
from asa_engine.text import Lexicon

if TYPE_CHECKING:
    import torch

    from asa_engine.graders.multi_granular.model import MultiGranular

__all__ = [
    "STAGE_NAMES",
    "MultiGranularStages",
    "Reading",
    "Stages",
    "TorchStages",
    "label_ids",
    "small_shapes",
]

STAGE_NAMES: Final = (
    "encoder",
    "language_model",
    "tokens",
    "vocabulary",
    "head",
    "tokenizer",
    "lexicon",
)

Array = NDArray[np.float32]


class Reading(Protocol):
    """One recording in front of the language model, behind the prompt's beginning."""

    @property
    def length(self) -> int:
        """Positions so far."""

    def extend(self, embeddings: Array) -> Array:
        """Run new positions [n, W]; return their hidden states [n, W]."""

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""


class Stages(Protocol):
    """Everything that judges, loaded and ready; used by any number of threads."""

    text: TextTokens
    lexicon: Lexicon

    def frames(self, mel: Array) -> Array:
        """Return the frames [T, D] of a window [n_mels, 2 T]."""

    def audio(self, frames: Array) -> Array:
        """Return the audio tokens [n, W] of a window's frames."""

    def hear(self, frames: Array) -> Array:
        """Return the log-probabilities [T, C] of silence and the phones."""

    def slots(self, frames: Array, heard: Array, aligned: Alignment, plan: Plan) -> Array:
        """Return the slots [S, W]."""

    def check(self, capacity: int) -> None:
        """Raise `UsageError` where a sequence of so many positions cannot be run."""

    def start(self, capacity: int) -> Reading:
        """Begin a sequence behind the prompt's beginning, with so many positions in all."""

    def embed(self, ids: tuple[int, ...]) -> Array:
        """Return the embeddings [n, W] of tokens of the vocabulary."""

    def some(self, hidden: Array, ids: tuple[int, ...]) -> Array:
        """Return the logits [n] of labels' first tokens."""

    def all(self, hidden: Array) -> Array:
        """Return the logits [V] of all tokens."""

    def versions(self) -> dict[str, str]:
        """Return the libraries that the verdict depends on."""


class MultiGranularStages:
    """The stages of a bundle.

    The prompt's beginning was run at float32 by the exporter; every recording starts from a copy
    of its keys and values.

    Args:
        config: The grader's configuration.
        files: `STAGE_NAMES` -> file.
        precision: `fp32` or `int8`.
        threads: Threads that one call may use.

    Raises:
        BackendError: ONNX Runtime cannot load a graph, or tokenizers is not installed.
        BundleError: The language model's graph is not one.
        CheckpointError: A tensor is missing or of another shape.
    """

    def __init__(
        self,
        config: MultiGranularConfig,
        files: Mapping[str, Path],
        *,
        precision: str,
        threads: int,
    ) -> None:
        head = Tensors(files["head"])
        width = config.language_model.width
        self._config = config
        self._decoder = Decoder.open(files["language_model"], threads=threads)
        prompt = len(config.prefix_ids)
        layers, heads, depth = self._decoder.layers, self._decoder.heads, self._decoder.head_width
        self._trunk = self._decoder.resume(head.read("prefix", (2, layers, heads, prompt, depth)))
        self._weights = {
            name: head.read(name, shape) for name, shape in small_shapes(config).items()
        }
        self.text = TextTokens.read(files["tokenizer"])
        self.lexicon = Lexicon.read([files["lexicon"]])
        labels = label_ids(self.text)
        self._rows = dict(zip(labels, head.read("labels", (len(labels), width)), strict=True))
        self._encode = _encoder(config, files["encoder"], precision, threads)
        self._tokens = session(files["tokens"], threads)
        self._vocabulary = session(files["vocabulary"], threads)

    def frames(self, mel: Array) -> Array:
        """Encode a window; its layers come out mixed."""
        return self._encode(mel)

    def audio(self, frames: Array) -> Array:
        """Project a window's frames."""
        return parts.audio_tokens(self._weights, frames, self._config.stack)

    def hear(self, frames: Array) -> Array:
        """Tell phones."""
        return parts.phone_log_probabilities(self._weights, frames)

    def slots(self, frames: Array, heard: Array, aligned: Alignment, plan: Plan) -> Array:
        """Describe how the text was said."""
        features = parts.sound_features(frames, heard, aligned.spans, plan.classes)
        return parts.slot_tokens(self._weights, features, plan.classes, plan.owners)

    def check(self, capacity: int) -> None:
        """Check positions and memory."""
        self._decoder.check(capacity)

    def start(self, capacity: int) -> Reading:
        """Fork the prompt's beginning."""
        return self._trunk.fork(capacity)

    def embed(self, ids: tuple[int, ...]) -> Array:
        """Look tokens up."""
        found: Array = self._tokens.run(["embeddings"], {"ids": np.array(ids, np.int64)})[0]
        return found

    def some(self, hidden: Array, ids: tuple[int, ...]) -> Array:
        """Compare a hidden state with the rows of labels, in float32 whatever the precision."""
        return np.array([self._rows[token] @ hidden for token in ids], np.float32)

    def all(self, hidden: Array) -> Array:
        """Compare a hidden state with the whole vocabulary."""
        found: Array = self._vocabulary.run(["logits"], {"hidden": hidden[np.newaxis]})[0][0]
        return found

    def versions(self) -> dict[str, str]:
        """Return the versions of ONNX Runtime and tokenizers."""
        return OnnxRuntime.availability().versions | {"tokenizers": metadata.version("tokenizers")}


def _encoder(
    config: MultiGranularConfig, file: Path, precision: str, threads: int
) -> Callable[[Array], Array]:
    """Return what makes mixed frames [T, D] of a window [n_mels, 2 T]."""
    if precision == "fp32":
        graph = session(file, threads)

        def run(mel: Array) -> Array:
            found: Array = graph.run(["frames"], {"mel": mel[np.newaxis]})[0][0]
            return found

        return run
    # In int8, and now and then in bf16, it would use up the whole budget of the score's change.
    encoder = Encoder(config.encoder, Tensors(file).read, precision="fp32", threads=threads)
    return lambda mel: encoder.encode([mel], config.layer_weights)[0]


class TorchStages:
    """The PyTorch reference.

    Args:
        grader: With its weights, in evaluation mode.
        lexicon: How words are pronounced.
    """

    def __init__(self, grader: MultiGranular, lexicon: Lexicon) -> None:
        self.grader = grader
        self.text = grader.tokens
        self.lexicon = lexicon

    def frames(self, mel: Array) -> Array:
        """Encode a window; its layers come out mixed."""
        import torch

        with torch.inference_mode():
            found: Array = self.grader.frames(torch.from_numpy(mel)).numpy()
        return found

    def audio(self, frames: Array) -> Array:
        """Project a window's frames."""
        import torch

        with torch.inference_mode():
            lengths = torch.tensor([len(frames)])
            rows = torch.from_numpy(frames)[None]
            found: Array = self.grader.projector(rows, lengths)[0].numpy()
        return found

    def hear(self, frames: Array) -> Array:
        """Tell phones."""
        import torch

        with torch.inference_mode():
            found: Array = self.grader.phones(torch.from_numpy(frames)).numpy()
        return found

    def slots(self, frames: Array, heard: Array, aligned: Alignment, plan: Plan) -> Array:
        """Describe how the text was said."""
        import torch

        features = parts.sound_features(frames, heard, aligned.spans, plan.classes)
        with torch.inference_mode():
            found = self.grader.slots(
                torch.from_numpy(features),
                torch.tensor(plan.classes),
                torch.tensor(plan.owners),
                torch.zeros(len(plan.words), dtype=torch.long),
            )
            rows: Array = torch.cat(found).numpy()
        return rows

    def check(self, capacity: int) -> None:
        """Check positions."""
        positions = self.grader.config.language_model.positions
        if capacity > positions:
            raise UsageError(
                f"a sequence of {capacity} tokens does not fit the language model's {positions} "
                "positions",
                hint="shorten the text or the audio",
            )

    def start(self, capacity: int) -> Reading:
        """Run the prompt's beginning."""
        self.check(capacity)
        return _TorchReading(self.grader)

    def embed(self, ids: tuple[int, ...]) -> Array:
        """Look tokens up."""
        import torch

        with torch.inference_mode():
            found: Array = self.grader.language_model.embed(torch.tensor(ids)).numpy()
        return found

    def some(self, hidden: Array, ids: tuple[int, ...]) -> Array:
        """Compare a hidden state with the rows of some tokens."""
        return self.all(hidden)[list(ids)]

    def all(self, hidden: Array) -> Array:
        """Compare a hidden state with the whole vocabulary."""
        import torch

        with torch.inference_mode():
            rows = self.grader.language_model.output.weight
            found: Array = (rows @ torch.from_numpy(hidden)).numpy()
        return found

    def versions(self) -> dict[str, str]:
        """Return the versions of PyTorch, transformers and tokenizers."""
        return {name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")}


class _TorchReading:
    def __init__(self, grader: MultiGranular) -> None:
        import torch

        self._model = grader.language_model
        self._cache = _Cache()
        self.length = 0
        self.extend(
            self._model.embed(torch.tensor(grader.config.prefix_ids, dtype=torch.long))
            .detach()
            .numpy()
        )

    def extend(self, embeddings: Array) -> Array:
        """Run new positions behind all before."""
        import torch

        layers = self._model.config.layers
        with torch.inference_mode():
            rows = torch.from_numpy(np.ascontiguousarray(embeddings))[None]
            cache: Any = self._cache
            hidden = self._model.run(rows, 0, layers, cache, self.length)
            self.length += len(embeddings)
            found: Array = self._model.close(hidden)[0].numpy()
        return found

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""
        self._cache.rewind(length)
        self.length = length


class _Cache:
    """Keys and values of everything so far, in place of Hugging Face's cache."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take keys and values [1, H, T, d] of a layer; return those to attend to."""
        import torch

        if (kept := self._kept.get(layer_idx)) is not None:
            keys, values = torch.cat((kept[0], keys), 2), torch.cat((kept[1], values), 2)
        self._kept[layer_idx] = keys, values
        return keys, values

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""
        for layer, (keys, values) in self._kept.items():
            self._kept[layer] = keys[:, :, :length], values[:, :, :length]


def label_ids(text: TextTokens) -> tuple[int, ...]:
    """Return the tokens that tell labels apart, after a space and without one, ascending.

    Raises:
        CheckpointError: The tokenizer has labels begin alike.
    """
    try:
        choices = [label_choice(text.encode, space)[1] for space in ("", " ")]
    except ValueError as error:
        raise CheckpointError(str(error), hint="choose another language model") from None
    return tuple(sorted({option[0] for choice in choices for option in choice.options}))


def small_shapes(config: MultiGranularConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the small parts' tensors."""
    depth, width = config.encoder.d_model, config.language_model.width
    size = depth + config.classes + parts.MEASURES
    inner, slots = config.projector_width, config.slot_width
    shapes: dict[str, tuple[int, ...]] = {
        "phones.norm.weight": (depth,),
        "phones.norm.bias": (depth,),
        "projector.frame_norm.weight": (depth,),
        "projector.frame_norm.bias": (depth,),
        "projector.norm.weight": (width,),
        "slots.mean": (size,),
        "slots.deviation": (size,),
        "slots.phone": (config.classes, slots),
    }
    linear = {
        "phones.fc1": (config.phone_width, depth),
        "phones.fc2": (config.classes, config.phone_width),
        "projector.fc1": (inner, depth * config.stack),
        "projector.fc2": (width, inner),
        "slots.fc1": (slots, size),
        "slots.fc2": (slots, slots),
    }
    for name, count in (("all", 1), ("word", 3), ("one", 3)):
        linear[f"slots.{name}"] = (slots, count * slots)
        linear[f"slots.{name}_out"] = (width, slots)
        shapes[f"slots.{name}_norm.weight"] = (width,)
    for name, shape in linear.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]
    return shapes
