"""One training step: networks, losses, learning rates."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from asa_engine.graders.acoustic.model import AcousticGrader, HeadOutputs
from asa_engine.nn.whisper import WhisperEncoder, frames_of
from asa_engine.objectives import (
    concordance_loss,
    multi_target_mse,
    phone_ctc,
    prior_cross_entropy,
    soft_bins,
)
from asa_engine.training.acoustic.recipe import PhaseRecipe
from asa_engine.training.data import AUXILIARY, Batch, Corpus

__all__ = ["Bf16Encoder", "Network", "Targets", "learning_rate", "losses", "parameter_groups"]

FINAL_LR_SHARE = 0.02


class Network(nn.Module):
    """The grader and the heads that only training needs.

    Args:
        grader: What is shipped.
        phones: Size of the phone inventory; its CTC has a blank and two classes a phone.
    """

    def __init__(self, grader: AcousticGrader, phones: int) -> None:
        super().__init__()
        self.grader = grader
        self.ctc = nn.Linear(grader.config.encoder.d_model, 1 + 2 * phones)
        self.auxiliary = nn.Linear(grader.config.head_width, len(AUXILIARY))

    def summed(self, frames: Tensor, batch: Batch) -> Tensor:
        """Pool frames [B, T, D] of windows and add those of one utterance: [N, K]."""
        lengths = frames_of(batch.lengths)
        stats = self.grader.pool(frames, lengths)
        zeros = stats.new_zeros(len(batch.index), stats.shape[1])
        return zeros.index_add(0, batch.owner, stats)


class Bf16Encoder:
    """A bfloat16 shadow of a float32 encoder: it computes, the float32 one is what is trained."""

    def __init__(self, encoder: WhisperEncoder) -> None:
        self.encoder = encoder
        self.shadow = copy.deepcopy(encoder).bfloat16().train()
        self.update()

    def __call__(self, mel: Tensor, lengths: Tensor) -> list[Tensor]:
        return [layer.float() for layer in self.shadow(mel.bfloat16(), lengths)]

    def take_gradients(self) -> None:
        """Move the shadow's gradients to the float32 weights."""
        for low, full in zip(self.shadow.parameters(), self.encoder.parameters(), strict=True):
            full.grad = None if low.grad is None else low.grad.float()
            low.grad = None

    def update(self) -> None:
        """Round the float32 weights into the shadow."""
        with torch.no_grad():
            for low, full in zip(self.shadow.parameters(), self.encoder.parameters(), strict=True):
                low.copy_(full)
                low.requires_grad_(full.requires_grad)


class Targets:
    """Targets of a corpus as tensors, in the units the losses use.

    Args:
        corpus: The train side.
        mean: Of each aspect, [A].
        std: Of each aspect, [A].
        levels: Of the prior.
    """

    def __init__(self, corpus: Corpus, mean: Tensor, std: Tensor, levels: Sequence[float]) -> None:
        self.scores = (torch.from_numpy(corpus.targets).float() - mean) / std
        self.prior = soft_bins(torch.from_numpy(corpus.overall).float(), levels)
        self.phones = corpus.phones
        self.auxiliary: Tensor | None = None
        if corpus.auxiliary is not None:
            spread = np.maximum(corpus.auxiliary.std(0), 1e-6)
            scaled = (corpus.auxiliary - corpus.auxiliary.mean(0)) / spread
            self.auxiliary = torch.from_numpy(scaled).float()


def losses(
    network: Network, frames: Tensor, batch: Batch, targets: Targets, phase: PhaseRecipe
) -> dict[str, Tensor]:
    """Compute every loss the phase gives a weight to, and `total`, their weighted sum.

    Args:
        network: In training mode.
        frames: Mixed encoder frames, float32 [B, T, D].
        batch: What the frames came from.
        targets: Of the whole corpus.
        phase: Weights.
    """
    grader = network.grader
    pooled = network.summed(frames.detach() if phase.phones_only else frames, batch)
    output: HeadOutputs = grader.head(pooled)
    scores = (output.scores - grader.score_mean) / grader.score_std
    wanted = targets.scores[batch.index]
    terms = {"mse": multi_target_mse(scores, wanted)}
    total = terms["mse"]
    if phase.ccc:
        terms["ccc"] = concordance_loss(scores, wanted)
        total = total + phase.ccc * terms["ccc"]
    if phase.prior:
        terms["prior"] = prior_cross_entropy(output.prior_logits, targets.prior[batch.index])
        total = total + phase.prior * terms["prior"]
    if phase.auxiliary and targets.auxiliary is not None:
        predicted = network.auxiliary(output.hidden)
        terms["auxiliary"] = multi_target_mse(predicted, targets.auxiliary[batch.index])
        total = total + phase.auxiliary * terms["auxiliary"]
    if phase.ctc and targets.phones is not None:
        logits = network.ctc(grader.dropout(frames))
        terms["ctc"] = phone_ctc(
            list(_joined(logits, batch)), [targets.phones[i] for i in batch.index]
        )
        total = total + phase.ctc * terms["ctc"]
    terms["total"] = total
    return terms


def _joined(values: Tensor, batch: Batch) -> Iterator[Tensor]:
    """Yield, per utterance, the valid frames of its windows end to end, [T, C]."""
    lengths = frames_of(batch.lengths).tolist()
    for position in range(len(batch.index)):
        windows = torch.nonzero(batch.owner == position)[:, 0].tolist()
        yield torch.cat([values[w, : lengths[w]] for w in windows])


def parameter_groups(network: Network, phase: PhaseRecipe) -> list[dict[str, object]]:
    """Return one AdamW group a parameter, frozen ones left out.

    The encoder's learning rate falls by `layer_decay` a layer from the last one down; the
    positional table, which is sinusoidal in Whisper, stays as it is. Matrices alone decay.
    """
    layers = network.grader.config.encoder.layers
    groups: list[dict[str, object]] = []
    for name, parameter in network.named_parameters():
        part = name.removeprefix("grader.encoder.")
        rate = phase.head_lr
        if part != name:
            level = 0  # the convolutions
            if part.startswith("layers."):
                level = 1 + int(part.split(".")[1])
            elif part.startswith("layer_norm"):
                level = layers
            rate = phase.encoder_lr * phase.layer_decay ** (layers - level)
            if level < phase.frozen_layers:
                rate = 0.0
        frozen = rate == 0 or part.startswith("embed_positions")
        parameter.requires_grad_(not frozen)
        if not frozen:
            decay = phase.weight_decay if parameter.ndim > 1 else 0.0
            groups.append(
                {"params": [parameter], "lr": rate, "peak_lr": rate, "weight_decay": decay}
            )
    return groups


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the peak rate: linear rise, then half a cosine down to 2 %."""
    rise = min(1.0, (step + 1) / max(1.0, warmup * steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return rise * (FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * cosine)
