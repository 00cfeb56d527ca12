"""Models larger than memory: their matrices stay in the folder, each is read when it is multiplied.

Hugging Face's own modules run unchanged; only their linear layers and embeddings are others. What
a pass computes is what it would compute with all weights in memory as float32, and nothing of a
matrix is left behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.backbones.stored import StoredTensor, read_stored
from asa_engine.errors import CheckpointError
from asa_engine.nn.speech_adapter import SpeechAdapter, find_speech_adapter

__all__ = [
    "StoredEmbedding",
    "StoredLinear",
    "StoredState",
    "is_stored",
    "matrix_of",
    "open_stored",
]

# What Hugging Face's class calls a tensor <- what published folders, of any age, call it.
_RENAMED: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "qwen2_audio": (
        (r"^(?:model\.)?language_model\.lm_head\.", "lm_head."),
        (r"^(?:model\.)?language_model\.(?:model\.)*", "model.language_model."),
        (r"^(?:model\.)?(audio_tower|multi_modal_projector)\.", r"model.\1."),
    ),
}
_UNUSED: Final = re.compile(r"\.image_embed\.|\.vision")
_TIED: Final = "lm_head.weight"


class StoredState:
    """A model's tensors in its folder, by the names that Hugging Face's class has for them.

    Args:
        folder: With safetensors, in one file or in shards.
        family: As `config.json` names the model.

    Raises:
        CheckpointError: A shard is missing, damaged or of another model.
    """

    def __init__(self, folder: Path, family: str) -> None:
        self.folder = folder
        tensors = read_stored(folder).tensors
        if not tensors:
            raise CheckpointError(
                f"{folder} holds no safetensors",
                hint="a model larger than memory is read from safetensors alone",
            )
        self._places: dict[str, tuple[str, StoredTensor]] = {}
        for stored, tensor in tensors.items():
            name = stored
            for pattern, ours in _RENAMED.get(family, ()):
                name, changed = re.subn(pattern, ours, name)
                if changed:
                    break
            self._places[name] = (stored, tensor)
        self._files = {file: Tensors(file) for file in {t.file for t in tensors.values()}}
        beside = find_speech_adapter(folder)
        self._adapter = SpeechAdapter.open(folder, beside) if beside else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            CheckpointError: The folder has none of that name.
        """
        if name not in self._places:
            raise CheckpointError(
                f"{self.folder} lacks {name}", hint="its weights are of another model"
            )
        return self._places[name][1].shape

    def has(self, name: str) -> bool:
        """Return whether the folder has a tensor."""
        return name in self._places

    def check_adapter(self, layers: Mapping[str, nn.Module]) -> None:
        """Raise `CheckpointError` where what lies beside the weights fits none of these layers."""
        if self._adapter is not None:
            self._adapter.check(layers)

    def read(self, name: str) -> Tensor:
        """Return a tensor as float32, what the folder keeps beside it merged in.

        Raises:
            CheckpointError: There is none, or it holds NaN or infinity.
        """
        shape = self.shape(name)
        stored, tensor = self._places[name]
        values = torch.from_numpy(self._files[tensor.file].read(stored, shape))
        if self._adapter is not None:
            self._adapter.merge_into(name.removesuffix(".weight"), values)
        return values

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Return rows [..., W] of a matrix, as float32, without reading the others."""
        shape, (stored, tensor) = self.shape(name), self._places[name]
        wanted = ids.reshape(-1).tolist()
        if wanted and not 0 <= min(wanted) <= max(wanted) < shape[0]:
            raise IndexError(f"{name} has {shape[0]} rows")
        file = self._files[tensor.file]
        rows = [torch.from_numpy(file.rows(stored, shape, at, at + 1)) for at in wanted]
        return torch.cat(rows).reshape(*ids.shape, -1) if rows else torch.zeros(0, shape[1])


class StoredLinear(nn.Linear):
    """A linear layer whose matrix is read when it is applied.

    Args:
        state: Where it is.
        name: Its name there, without `.weight`.
        like: The layer that it stands for.
    """

    def __init__(self, state: StoredState, name: str, like: nn.Linear) -> None:
        bias = like.bias is not None
        super().__init__(like.in_features, like.out_features, bias, device="meta")
        self.state, self.name = state, name
        if bias:
            self.bias = nn.Parameter(state.read(f"{name}.bias"), requires_grad=False)
        _check(state, f"{name}.weight", self.weight)

    def matrix(self) -> Tensor:
        """Return its matrix, float32."""
        return self.state.read(f"{self.name}.weight")

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        return F.linear(input, self.matrix(), self.bias)

    def rows(self, ids: Tensor) -> Tensor:
        """Return rows of its matrix."""
        return self.state.rows(f"{self.name}.weight", ids)


class StoredEmbedding(nn.Embedding):
    """A table of embeddings of which only the rows asked for are read; arguments as above."""

    def __init__(self, state: StoredState, name: str, like: nn.Embedding) -> None:
        super().__init__(like.num_embeddings, like.embedding_dim, device="meta")
        self.state, self.name = state, name
        _check(state, f"{name}.weight", self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Return the embeddings [..., W] of token ids."""
        return self.state.rows(f"{self.name}.weight", input)


def matrix_of(layer: nn.Linear) -> Tensor:
    """Return a linear layer's matrix, read where it is left in a folder."""
    return layer.matrix() if isinstance(layer, StoredLinear) else layer.weight


def is_stored(module: nn.Module) -> bool:
    """Return whether anything below a module is read only when it is applied."""
    return any(isinstance(child, StoredLinear | StoredEmbedding) for child in module.modules())


def open_stored(factory: Any, folder: Path) -> Any:
    """Build a model of Hugging Face's whose matrices stay in a folder.

    Args:
        factory: The class, or `AutoModelForCausalLM`.
        folder: With `config.json` and safetensors.

    Returns:
        The model, frozen, in evaluation mode. What it sees with is left empty.

    Raises:
        CheckpointError: A tensor is missing or of another shape.
    """
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    build = getattr(factory, "from_config", None) or factory._from_config
    with torch.device("meta"):
        model = build(config, attn_implementation="sdpa", dtype=torch.float32)
    state = StoredState(folder, config.model_type)
    for name, module, parent, last in _places(model):
        _fill(state, name, module)
        if isinstance(module, nn.Linear):
            key = name
            if f"{name}.weight" == _TIED and not state.has(_TIED):
                key = next(n for n, _, _, end in _places(model) if end == "embed_tokens")
            setattr(parent, last, StoredLinear(state, key, module))
        elif last == "embed_tokens":
            setattr(parent, last, StoredEmbedding(state, name, module))
        elif last == "rotary_emb":
            setattr(parent, last, type(module)(config=module.config))
    state.check_adapter(dict(model.named_modules()))
    return model.eval().requires_grad_(False)


def _places(model: nn.Module) -> Iterator[tuple[str, Any, nn.Module, str]]:
    """Yield name, module, parent and last name of what a grader may use."""
    modules = dict(model.named_modules())
    for name, module in modules.items():
        before, _, last = name.rpartition(".")
        if name and not _UNUSED.search(name):
            yield name, module, modules[before], last


def _fill(state: StoredState, name: str, module: nn.Module) -> None:
    """Read what a module itself holds, but for matrices that are left where they are."""
    if isinstance(module, nn.Linear) or name.endswith(("embed_tokens", "rotary_emb")):
        return
    own = {**module._parameters, **module._buffers}
    for last, value in own.items():
        if value is None or last in module._non_persistent_buffers_set:
            continue
        _check(state, f"{name}.{last}", value)
        tensor = state.read(f"{name}.{last}")
        if last in module._parameters:
            module._parameters[last] = nn.Parameter(tensor)
        else:
            module._buffers[last] = tensor


def _check(state: StoredState, name: str, wanted: Tensor) -> None:
    if (found := state.shape(name)) != tuple(wanted.shape):
        raise CheckpointError(
            f"{state.folder}: {name} is {list(found)}, not {list(wanted.shape)}",
            hint="weights and config.json are not of one model",
        )
