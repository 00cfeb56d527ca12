"""Export of a language model that does not fit the memory: one matrix at a time.

Its weights stay in the folder they were published in (`asa_engine.nn.stored_layers`). Each is read
there, adapters are merged into it, it is rounded to the nearest steps and written beside the graph,
and forgotten. What needs the model at float32, the prompt's beginning and what rounding does to
the answer on average, is run by PyTorch, which reads each matrix when it multiplies with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.language_model.base import CausalModel, check_state
from asa_engine.nn.language_model import LanguageModel
from asa_engine.nn.lora import LoraLinear
from asa_engine.nn.stored_layers import StoredLinear
from asa_export.language_model import decoder_tensors, split_fused
from asa_export.language_model_config import DecoderConfig
from asa_export.weights import Place

__all__ = ["StoredModel", "StoredWeights", "stored_tensors"]

_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")


class StoredWeights:
    """The tensors of a decoder, by the names of `decoder_tensors`, its adapters merged when read.

    Args:
        config: Its shape.
        decoder: Hugging Face's, with `StoredLinear` layers and adapters over them.

    Attributes:
        path: Where the folder is, for messages.
    """

    def __init__(self, config: DecoderConfig, decoder: nn.Module) -> None:
        self._config, self._decoder = config, decoder
        self._shapes = {
            name: shape for name, shape in decoder_tensors(config).items() if name not in _TABLES
        }
        self.path = Path()
        # The parts of a fused matrix are asked for one after the other.
        self._whole = lru_cache(maxsize=1)(self._read)

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """Return what a tensor is read as."""
        return "F32"

    def place(self, name: str) -> Place:
        """Say that it has none.

        Raises:
            CheckpointError: Always: graphs cannot point into a folder of other people.
        """
        raise CheckpointError(
            f"{name} cannot be left at float32: the model is larger than this machine's memory",
            hint="export it with --precision int8 or int4",
        )

    def array(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32.

        Raises:
            CheckpointError: It is missing, or holds NaN or infinity.
        """
        layer, _, last = name.removeprefix("model.").rpartition(".")
        before, _, part = layer.rpartition(".")
        fused = next((whole for whole, parts in _FUSED.items() if part in parts), "")
        found = self._present(f"{before}.{fused}") if fused else False
        stored = f"{before}.{fused}.{last}" if found else f"{layer}.{last}"
        values = split_fused(self._config, {stored: self._whole(stored)})
        array: NDArray[np.float32] = values[name.removeprefix("model.")].numpy()
        return array

    def _present(self, layer: str) -> bool:
        try:
            self._decoder.get_submodule(layer)
        except AttributeError:
            return False
        return True

    def _read(self, name: str) -> Tensor:
        layer, _, last = name.rpartition(".")
        module: Any = self._decoder.get_submodule(layer)
        adapter = module if isinstance(module, LoraLinear) else None
        base = module.base if adapter else module
        if last != "weight" or not isinstance(base, StoredLinear):
            values: Tensor = getattr(base, last).detach()
            return values
        weight = base.matrix()
        if adapter is not None:
            weight += adapter.scale * (adapter.lora_b.detach() @ adapter.lora_a.detach())
        return weight


class StoredModel(CausalModel):
    """A language model at float32, run by PyTorch, as the exporter runs its graphs.

    Args:
        model: It; adapters may lie over its layers.
        positions: Most positions of a sequence.
    """

    def __init__(self, model: LanguageModel, shape: DecoderConfig, positions: int) -> None:
        self.model = model
        self.width, self.layers = shape.width, shape.layers
        self.heads, self.head_width = shape.kv_heads, shape.head_width
        self.positions = positions

    @property
    def bytes_per_position(self) -> int:
        """Bytes that keys and values of one position take."""
        return 2 * self.layers * self.heads * self.head_width * 4

    def start(self, capacity: int) -> StoredSequence:
        """Return an empty sequence."""
        self.check(capacity)
        return StoredSequence(self, capacity)

    def resume(self, state: NDArray[np.float32]) -> StoredSequence:
        """Return a sequence that begins with keys and values."""
        check_state(self, state)
        sequence = self.start(state.shape[3])
        sequence.take(state)
        return sequence


class StoredSequence:
    """One sequence; see `asa_engine.language_model.base.CausalSequence`."""

    def __init__(self, model: StoredModel, capacity: int) -> None:
        self._model = model
        self.capacity, self.length = capacity, 0
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def take(self, state: NDArray[np.float32]) -> None:
        """Begin with keys, then values, [2, layers, heads, n, head_width]."""
        keys, values = torch.from_numpy(state)
        self._kept = {layer: (keys[layer][None], values[layer][None]) for layer in range(len(keys))}
        self.length = state.shape[3]

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Stand in for Hugging Face's cache: append keys and values [1, H, T, d] of a layer."""
        if layer_idx in self._kept:
            before = self._kept[layer_idx]
            keys, values = torch.cat((before[0], keys), 2), torch.cat((before[1], values), 2)
        self._kept[layer_idx] = (keys, values)
        return keys, values

    @torch.inference_mode()
    def extend(
        self, embeddings: NDArray[np.float32], wanted: int | None = None
    ) -> NDArray[np.float32]:
        """Run new positions; return hidden states."""
        if self.length + len(embeddings) > self.capacity:
            raise UsageError(f"{len(embeddings)} positions do not fit", hint="shorten the audio")
        model: Any = self._model.model
        rows = torch.from_numpy(np.ascontiguousarray(embeddings))[None]
        hidden = model.run(rows, 0, self._model.layers, self, self.length)[0]
        self.length += len(embeddings)
        count = len(hidden) if wanted is None else wanted
        closed: NDArray[np.float32] = model.close(hidden[len(hidden) - count :]).numpy()
        return closed

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""
        self._kept = {
            layer: (keys[:, :, :length], values[:, :, :length])
            for layer, (keys, values) in self._kept.items()
        }
        self.length = length

    def state(self) -> NDArray[np.float32]:
        """Return keys, then values, of all positions."""
        layers = [self._kept[layer] for layer in range(self._model.layers)]
        both = [torch.cat([pair[part] for pair in layers]) for part in (0, 1)]
        state: NDArray[np.float32] = torch.stack(both).numpy()
        return state

    def fork(self, capacity: int | None = None) -> Self:
        """Return a sequence of its own that begins like this one."""
        other = type(self)(self._model, max(capacity or self.capacity, self.length))
        other._kept, other.length = dict(self._kept), self.length
        return other


def stored_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's tensors by name; matrices that are left in a folder are read."""
    stored = {n: child for n, child in module.named_modules() if isinstance(child, StoredLinear)}
    for name, value in module.state_dict().items():
        layer, _, last = name.rpartition(".")
        yield name, stored[layer].matrix() if last == "weight" and layer in stored else value
