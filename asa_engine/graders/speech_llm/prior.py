"""The acoustic prior of the speech LLM at run time: a score from sums, pooled with the answer.

It is the acoustic grader's kernel regressor on the same encoder, fitted for this grader. Sums of
windows may be added, so it costs nothing after the speech but one product and a few exponentials.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.kernels.dense import matrix_vector

__all__ = ["KernelPrior", "pool_answer", "prior_shapes", "profile_of"]

Array = NDArray[np.float64]
Read = Callable[[str, tuple[int, ...]], NDArray[np.float32]]

VARIANCE_FLOOR = 1e-5
# Log duration: in units of its usual spread, held to the range seen in training.
REFERENCE_FRAMES = 175.0
LOG_FRAMES_SCALE = 0.5
LOG_FRAMES_RANGE = (-2.0, 3.5)


def prior_shapes(config: SpeechLLMConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the prior's tensors; none where there is no prior."""
    prior, aspects = config.prior, len(config.aspects)
    if not prior.centres:
        return {}
    return {
        "projection": (prior.width, config.moments_width),
        "bias": (prior.width,),
        "duration": (1,),
        "centres": (prior.centres, prior.width + 1),
        "weights": (aspects, prior.centres),
        "mean": (aspects,),
    }


def profile_of(sums: Array) -> tuple[Array, Array]:
    """Return what the kernel compares, of a chunk's sums or of several, float64 [..., 1 + M].

    Args:
        sums: Count of frames; of every encoder layer the sum of h; of every layer the sum of h^2.

    Returns:
        Mean and deviation of every layer's outputs [..., M], and the relative log duration
        [..., 1].
    """
    count = sums[..., :1]
    mean, square = np.split(sums[..., 1:] / count, 2, axis=-1)
    deviation = np.sqrt(np.maximum(square - mean**2, VARIANCE_FLOOR))
    duration = np.log(count / REFERENCE_FRAMES) / LOG_FRAMES_SCALE
    return np.concatenate((mean, deviation), axis=-1), np.clip(duration, *LOG_FRAMES_RANGE)


class KernelPrior:
    """mean + sum_i w_i exp(-|p - c_i|^2), p a chunk's place (the acoustic grader's README).

    Args:
        config: The grader's configuration.
        read: Returns a tensor of `prior_shapes` by name and shape.
    """

    def __init__(self, config: SpeechLLMConfig, read: Read) -> None:
        tensors = {
            name: read(name, shape).astype(np.float64)
            for name, shape in prior_shapes(config).items()
        }
        self._projection, self._bias = tensors["projection"], tensors["bias"]
        self._duration, self._centres = tensors["duration"], tensors["centres"]
        self._weights, self._mean = tensors["weights"], tensors["mean"]

    def score(self, sums: Array) -> Array:
        """Return scores [A] in scale units of a chunk's sums [1 + M]."""
        profile, duration = profile_of(sums)
        place = np.concatenate(
            (matrix_vector(self._projection, profile) + self._bias, duration * self._duration)
        )
        near = np.exp(-np.square(self._centres - place).sum(axis=1))
        score: Array = self._mean + matrix_vector(self._weights, near)
        return score


def pool_answer(config: SpeechLLMConfig, answer: Array, said: Array) -> Array:
    """Pool the language model's answer with the prior's scores (linear opinion pool).

    Args:
        config: The grader's configuration.
        answer: Label logits, or a regression's outputs, [K].
        said: The prior's scores [A].

    Returns:
        Log-probabilities of the labels, (1 - share) softmax(answer) + share q with q_k
        proportional to exp(-(s_k - said)^2 / (2 sd^2)); or the weighted mean of the outputs; [K].
    """
    prior = config.prior
    if config.answer == "regression":
        low = np.array([aspect.scale_min for aspect in config.aspects])
        high = np.array([aspect.scale_max for aspect in config.aspects])
        outputs = (said - (low + high) / 2) / ((high - low) / 2)
        mean: Array = (1 - prior.share) * answer + prior.share * outputs
        return mean
    distance = (np.array(config.prompt.label_scores) - said[0]) / prior.sd
    pooled = (1 - prior.share) * _softmax(answer) + prior.share * _softmax(-(distance**2) / 2)
    logarithms: Array = np.log(np.maximum(pooled, np.finfo(np.float64).tiny))
    return logarithms


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    shares: Array = powers / powers.sum()
    return shares
