"""The transformer over phones in PyTorch, several seeds side by side.

Seeds share the batches and nothing else: every tensor has them as its first axis, which costs a
small network much less than one run after another. `graders.pronunciation.judge` computes the same
in NumPy from the same tensors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asa_engine.graders.pronunciation.judge import slopes_of

__all__ = ["JudgeNetwork", "Shape", "Verdict"]

_NOTHING = -1e4
_LEAST = -50.0


class Shape(NamedTuple):
    """Sizes of the network.

    Attributes:
        inputs: Numbers of a phone.
        whole: Numbers of a reading.
        words: Numbers of a word; 0 where words and phones are not scored.
        aspects: Scores of a reading.
        classes: Of the phone layer.
        width: Hidden width.
        layers: Of the transformer.
        heads: Attention heads.
        seeds: Networks side by side.
    """

    inputs: int
    whole: int
    words: int
    aspects: int = 4
    classes: int = 40
    width: int = 64
    layers: int = 2
    heads: int = 4
    seeds: int = 5


class Verdict(NamedTuple):
    """What the networks say, standardised: scores [S, B, A], words [S, B, W], phones [S, B, P]."""

    scores: Tensor
    words: Tensor | None
    phones: Tensor | None


class JudgeNetwork(nn.Module):
    """Pre-norm transformer over a reading's phones, pooled for words and for the whole.

    Args:
        shape: Its sizes.
        dropout: Inside.
        input_dropout: On what comes in.
    """

    def __init__(self, shape: Shape, dropout: float = 0.2, input_dropout: float = 0.15) -> None:
        super().__init__()
        self.shape = shape
        self.drop, self.input_drop = nn.Dropout(dropout), nn.Dropout(input_dropout)
        s, d = shape.seeds, shape.width
        self._held = nn.ParameterDict()
        self._linear("input", shape.inputs, d)
        self._linear("context", shape.whole, d)
        self._slopes = torch.tensor(slopes_of(shape.heads))
        self._hold("phone", torch.randn(s, shape.classes, d))
        for layer in range(shape.layers):
            name = f"layers.{layer}."
            self._norm(f"{name}norm1")
            self._linear(f"{name}qkv", d, 3 * d)
            self._linear(f"{name}out", d, d)
            self._norm(f"{name}norm2")
            self._linear(f"{name}fc1", d, 4 * d)
            self._linear(f"{name}fc2", 4 * d, d)
        self._norm("norm")
        self._linear("attend", d, 1)
        self._linear("score1", 2 * d + shape.whole, d)
        self._linear("score2", d, shape.aspects)
        if shape.words:
            self._linear("one", d, 1)
            self._linear("word1", 2 * d + shape.words, d)
            self._linear("word2", d, 1)

    def forward(
        self,
        rows: Tensor,
        classes: Tensor,
        mask: Tensor,
        owners: Tensor,
        words: Tensor | None,
        whole: Tensor,
    ) -> Verdict:
        """Judge a batch of readings.

        Args:
            rows: Standardised numbers of each phone, [B, P, F].
            classes: Of each phone, [B, P].
            mask: Whether there is one, [B, P].
            owners: Word of each phone, [B, P].
            words: Standardised numbers of each word, [B, W, F'].
            whole: Numbers of each reading, [B, R].
        """
        count, length = classes.shape
        s, d, heads = self.shape.seeds, self.shape.width, self.shape.heads
        flat = self.input_drop(rows).reshape(1, count * length, -1)
        wholes = self.input_drop(whole).expand(s, -1, -1)
        h = self._linearly("input", flat) + self._tensor("phone")[:, classes.reshape(-1)]
        h = h + self._linearly("context", wholes).repeat_interleave(length, 1)
        keys = self._bias(mask).expand(s, count, heads, length, length).flatten(0, 1)
        for layer in range(self.shape.layers):
            name = f"layers.{layer}."
            qkv = self._linearly(f"{name}qkv", self._normal(f"{name}norm1", h))
            q, k, v = (
                qkv.view(s * count, length, 3, heads, d // heads).permute(2, 0, 3, 1, 4).unbind(0)
            )
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
            mixed = mixed.transpose(1, 2).reshape(s, count * length, d)
            h = h + self.drop(self._linearly(f"{name}out", mixed))
            x = F.silu(self._linearly(f"{name}fc1", self._normal(f"{name}norm2", h)))
            h = h + self.drop(self._linearly(f"{name}fc2", x))
        h = self._normal("norm", h)
        rows_of = h.view(s, count, length, d)
        found = mask[None, ..., None].float()
        share = self._linearly("attend", h).view(s, count, length, 1)
        share = share.masked_fill(~mask[None, ..., None], _NOTHING).softmax(2)
        means = (rows_of * found).sum(2) / found.sum(2)
        g = torch.cat((means, (share * rows_of).sum(2), wholes), -1)
        scores = self._linearly("score2", self.drop(F.silu(self._linearly("score1", g))))
        if words is None:
            return Verdict(scores, None, None)
        phones = self._linearly("one", h).view(s, count, length)
        most = words.shape[1]
        one = F.one_hot(owners, most).float() * mask[..., None].float()  # [B, P, W]
        means = one.transpose(1, 2) @ rows_of / one.sum(1).clamp_min(1)[..., None]
        to = torch.where(mask, owners, most)[None, ..., None].expand(s, -1, -1, d)
        peaks = rows_of.new_full((s, count, most + 1, d), _LEAST)
        peaks = peaks.scatter_reduce(2, to, rows_of, "amax")[:, :, :most]
        x = torch.cat((means, peaks, self.input_drop(words).expand(s, -1, -1, -1)), -1)
        x = F.silu(self._linearly("word1", x.flatten(1, 2)))
        said = self._linearly("word2", x).view(s, count, most)
        return Verdict(scores, said, phones)

    def _bias(self, mask: Tensor) -> Tensor:
        """Return what is added to attention, [B, H, P, P]: what is far or padding counts less."""
        at = torch.arange(mask.shape[1])
        far = -self._slopes[:, None, None] * (at[:, None] - at).abs()
        return far + torch.where(mask, 0.0, _NOTHING)[:, None, None, :]

    def state(self) -> dict[str, Tensor]:
        """Return every tensor under the name that the judge has it by."""
        return {
            name.replace("/", "."): value.detach().contiguous()
            for name, value in self._held.items()
        }

    def _hold(self, name: str, value: Tensor) -> None:
        # PyTorch's own names may hold no dots.
        self._held[name.replace(".", "/")] = nn.Parameter(value)

    def _tensor(self, name: str) -> Tensor:
        found: Tensor = self._held[name.replace(".", "/")]
        return found

    def _linear(self, name: str, inputs: int, outputs: int) -> None:
        bound = 1 / math.sqrt(inputs)
        s = self.shape.seeds
        for part, shape in (("weight", (s, inputs, outputs)), ("bias", (s, outputs))):
            self._hold(f"{name}.{part}", torch.empty(shape).uniform_(-bound, bound))

    def _norm(self, name: str) -> None:
        shape = (self.shape.seeds, self.shape.width)
        self._hold(f"{name}.weight", torch.ones(shape))
        self._hold(f"{name}.bias", torch.zeros(shape))

    def _linearly(self, name: str, x: Tensor) -> Tensor:
        """Map [S or 1, N, in] to [S, N, out]."""
        weight, bias = self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias")
        return torch.baddbmm(bias[:, None], x.expand(len(weight), -1, -1), weight)

    def _normal(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias")
        return F.layer_norm(x, x.shape[-1:]) * weight[:, None] + bias[:, None]
