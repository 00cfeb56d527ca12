"""Low-rank adapters of linear layers (LoRA): added, trained, read, merged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LoraLinear", "add_lora", "lora_counts", "lora_parameters", "merge_lora"]


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trained low-rank product (Hu et al. 2021, equation 3).

    y = W x + (alpha / r) B A dropout(x). B starts at zero, so that nothing changes at first. The
    product is computed in the layer's own type, its two factors are kept in float32.

    Args:
        base: The layer; its parameters stop taking gradients.
        rank: r.
        alpha: Its share of alpha / r scales the product.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        self.dropout = nn.Dropout(0.0)  # training sets it
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        inner = F.linear(self.dropout(x), self.lora_a.to(x.dtype))
        product = F.linear(inner, self.lora_b.to(x.dtype))
        out: Tensor = self.base(x) + self.scale * product
        return out

    def merged(self) -> nn.Linear:
        """Return one linear layer that computes the same."""
        weight = self.base.weight + self.scale * (self.lora_b @ self.lora_a)
        layer = nn.Linear(self.base.in_features, self.base.out_features, self.base.bias is not None)
        layer.weight = nn.Parameter(weight.detach().to(self.base.weight.dtype))
        if self.base.bias is not None:
            layer.bias = nn.Parameter(self.base.bias.detach().clone())
        return layer.requires_grad_(False)


def add_lora(
    layers: Sequence[nn.Module], targets: Sequence[str], rank: int, alpha: float
) -> dict[str, int]:
    """Wrap the named linear layers inside each of `layers`, in place.

    Args:
        layers: Such as the upper layers of a language model.
        targets: Last names of the linear layers, such as `q_proj`.
        rank: r of each.
        alpha: Scale of each, times r.

    Returns:
        Target -> how many layers of that name have an adapter now.

    Raises:
        ValueError: A layer holds none of them, or one of them is in no layer; nothing is changed.
    """
    found = []
    for layer in layers:
        sites = [
            (parent, name)
            for parent in layer.modules()
            if not isinstance(parent, LoraLinear)
            for name, child in parent.named_children()
            if name in targets and isinstance(child, nn.Linear)
        ]
        if not sites:
            raise ValueError(f"a layer has none of {', '.join(targets)}")
        found += sites
    counts = {target: sum(name == target for _, name in found) for target in targets}
    if missed := [target for target, count in counts.items() if not count]:
        raise ValueError(f"no layer has {', '.join(missed)}")
    for parent, name in found:
        setattr(parent, name, LoraLinear(getattr(parent, name), rank, alpha))
    return counts


def lora_counts(module: nn.Module) -> dict[str, int]:
    """Return name of a linear layer -> how many of that name below a module have an adapter."""
    names = (
        name.rpartition(".")[2]
        for name, child in module.named_modules()
        if isinstance(child, LoraLinear)
    )
    return dict(Counter(names))


def lora_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the adapters' factors below a module, by name."""
    for name, parameter in module.named_parameters():
        if name.endswith((".lora_a", ".lora_b")):
            yield name, parameter


def merge_lora(module: nn.Module) -> None:
    """Replace every adapter below a module by a plain layer that computes the same, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLinear):
                setattr(parent, name, child.merged())
