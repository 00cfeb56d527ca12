"""The acoustic prior in PyTorch: the reference of `prior.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.prior import (
    LOG_FRAMES_RANGE,
    LOG_FRAMES_SCALE,
    REFERENCE_FRAMES,
    VARIANCE_FLOOR,
    prior_shapes,
)

__all__ = ["Prior", "sums_of"]


class Prior(nn.Module):
    """A kernel regressor on sums of the encoder's layers, pooled with the answer.

    It is computed in float64: its distances are small differences of large sums.

    Args:
        config: The grader's configuration; without centres it holds nothing.
    """

    projection: Tensor
    bias: Tensor
    duration: Tensor
    centres: Tensor
    weights: Tensor
    mean: Tensor

    def __init__(self, config: SpeechLLMConfig) -> None:
        super().__init__()
        self.config = config
        for name, shape in prior_shapes(config).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))

    def forward(self, sums: Tensor) -> Tensor:
        """Return scores in scale units, float64 [B, A], of chunks' sums [B, 1 + M]."""
        sums = sums.double()
        count = sums[:, :1]
        mean, square = (sums[:, 1:] / count).chunk(2, dim=1)
        deviation = (square - mean.square()).clamp_min(VARIANCE_FLOOR).sqrt()
        duration = (torch.log(count / REFERENCE_FRAMES) / LOG_FRAMES_SCALE).clamp(*LOG_FRAMES_RANGE)
        profile = torch.cat((mean, deviation), dim=1)
        place = torch.cat(
            (
                profile @ self.projection.double().T + self.bias.double(),
                duration * self.duration.double(),
            ),
            dim=1,
        )
        distance = (place[:, None] - self.centres.double()).square().sum(2)
        said: Tensor = self.mean.double() + torch.exp(-distance) @ self.weights.double().T
        return said

    def pool(self, answer: Tensor, said: Tensor) -> Tensor:
        """Pool answers [B, K] with the prior's scores [B, A]; see `prior.pool_answer`."""
        config, prior = self.config, self.config.prior
        said = said.to(answer)
        if config.answer == "regression":
            low = answer.new_tensor([a.scale_min for a in config.aspects])
            high = answer.new_tensor([a.scale_max for a in config.aspects])
            outputs = (said - (low + high) / 2) / ((high - low) / 2)
            return (1 - prior.share) * answer + prior.share * outputs
        distance = (answer.new_tensor(config.prompt.label_scores) - said) / prior.sd
        shares = (1 - prior.share) * answer.softmax(-1)
        shares = shares + prior.share * (-distance.square() / 2).softmax(-1)
        return shares.clamp_min(torch.finfo(answer.dtype).tiny).log()


def sums_of(layers: Tensor, lengths: Tensor) -> Tensor:
    """Sum the encoder's outputs of windows, [B, L + 1, T, D], over their valid frames.

    Returns:
        float32 [B, 1 + 2 (L + 1) D]: the count; of every layer the sum of h; then of h^2.
    """
    valid = torch.arange(layers.shape[2], device=layers.device) < lengths[:, None]
    frames = layers * valid[:, None, :, None]
    return torch.cat(
        (lengths[:, None].to(layers), frames.sum(2).flatten(1), frames.square().sum(2).flatten(1)),
        dim=1,
    )
