"""The adapter that Phi-4-multimodal keeps beside its weights, and without which it does not hear.

Its language model is that of text; a low-rank adapter in `speech-lora`, in peft's layout, makes it
understand audio tokens. It is merged when the folder is read, W + (alpha / r) B A (Hu et al. 2021,
equation 3), so that a grader's own adapters come on top of a plain model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from asa_engine.errors import CheckpointError
from asa_engine.files import read_json

__all__ = ["SpeechAdapter", "find_speech_adapter", "merge_speech_adapter"]

_CONFIG: Final = "speech-lora/adapter_config.json"
_WEIGHTS: Final = "speech-lora/adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_ENDS: Final = tuple(
    f".lora_{which}{name}.weight" for which in "AB" for name in ("", ".default", ".speech")
)
_NOT_THERE: Final[dict[str, Any]] = {
    f"_raise_exceptions_for_{why}": False
    for why in ("gated_repo", "missing_entries", "connection_errors")
}
# What would make the product another one than is computed here.
_PLAIN: Final = {"use_rslora": False, "use_dora": False, "bias": "none", "peft_type": "LORA"}


def find_speech_adapter(source: str | Path) -> Path | None:
    """Return the folder of the adapter beside a model's weights; `None` where there is none."""
    found = cached_file(str(source), _CONFIG, **_NOT_THERE)
    return Path(found).parent if found else None


def merge_speech_adapter(model: nn.Module, source: str | Path, folder: Path) -> int:
    """Merge an adapter into a model's linear layers, in place.

    Args:
        model: Hugging Face's whole model, after whose modules the adapter's tensors are named.
        source: Where the model was read from.
        folder: That of the adapter, from `find_speech_adapter`.

    Returns:
        How many linear layers it changed.

    Raises:
        CheckpointError: Its weights are missing or damaged, it is of another kind, or a tensor is
            of no layer of this model.
    """
    adapter = SpeechAdapter.open(source, folder)
    layers = dict(model.named_modules())
    adapter.check(layers)
    with torch.no_grad():
        for name in adapter.names:
            weight: Tensor = layers[name].weight
            merged = weight.float()
            adapter.merge_into(name, merged)
            weight.copy_(merged)
    return len(adapter.names)


class SpeechAdapter:
    """An adapter that was read, to be merged into one matrix after the other.

    Args:
        where: Its file, for messages.
        pairs: Layer -> (A [r, in], B [out, r]).
        scale: alpha / r.
    """

    def __init__(self, where: str, pairs: dict[str, tuple[Tensor, Tensor]], scale: float) -> None:
        self._where, self._pairs, self._scale = where, pairs, scale

    @property
    def names(self) -> tuple[str, ...]:
        """The layers that it changes."""
        return tuple(self._pairs)

    @classmethod
    def open(cls, source: str | Path, folder: Path) -> SpeechAdapter:
        """Read an adapter; arguments and errors as of `merge_speech_adapter`."""
        scale = _scale(folder / Path(_CONFIG).name)
        weights = cached_file(str(source), _WEIGHTS, **_NOT_THERE)
        if not weights:
            raise CheckpointError(
                f"{source} has an adapter without {_WEIGHTS}", hint="fetch the model again"
            )
        try:
            with safe_open(weights, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{weights} is damaged: {error}", hint="fetch the model again"
            ) from None
        return cls(str(weights), _pairs(tensors, weights), scale)

    def check(self, layers: Mapping[str, nn.Module]) -> None:
        """Raise `CheckpointError` unless each of its layers is a linear one of the right shape."""
        for name, (a, b) in self._pairs.items():
            layer = layers.get(name)
            if not isinstance(layer, nn.Linear) or (b.shape[0], a.shape[1]) != layer.weight.shape:
                raise CheckpointError(
                    f"the adapter {self._where} is of another model: {name} has no such weight",
                    hint="fetch the model again",
                )

    def merge_into(self, name: str, weight: Tensor) -> None:
        """Add its product to a layer's matrix, float32, in place; others stay as they are."""
        if name in self._pairs:
            a, b = self._pairs[name]
            weight += self._scale * (b.float() @ a.float())


def _scale(path: Path) -> float:
    """Return alpha / r."""
    config = read_json(path, CheckpointError)
    for name, plain in _PLAIN.items():
        if config.get(name, plain) != plain:
            raise CheckpointError(f"{path}: {name} is {config[name]!r}", hint="it must be merged")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(f"{path} states no r and lora_alpha", hint="fetch the model again")
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise CheckpointError(f"{path} has ranks of their own", hint="it must be merged by peft")
    return float(alpha) / rank


def _pairs(tensors: dict[str, Tensor], where: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return layer -> (A [r, in], B [out, r])."""
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        end = next((end for end in _ENDS if name.endswith(end)), None)
        if end is None or tensor.ndim != 2:
            raise CheckpointError(f"{where} holds {name}, which is no low-rank factor")
        layer = name.removeprefix(_PREFIX).removesuffix(end)
        factors.setdefault(layer, {})[end[len(".lora_")]] = tensor
    for layer, both in factors.items():
        if both.keys() != {"A", "B"} or both["A"].shape[0] != both["B"].shape[1]:
            raise CheckpointError(f"{where}: the factors of {layer} do not go together")
    if not factors:
        raise CheckpointError(f"{where} reaches no layer", hint="fetch the model again")
    return {layer: (both["A"], both["B"]) for layer, both in factors.items()}
