"""The acoustic grader's head on the compiled kernels: a window's sums to prior and scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from asa_engine import _kernels
from asa_engine.kernels import isa
from asa_engine.nn.acoustic_tensors import HEAD_NAMES, REGRESSOR_NAMES

__all__ = ["Head"]


class Head:
    """Prior and scores in one pass over the weights.

    Args:
        weights: By the checkpoint's names, those of the kernel regressor only where it has one.
            Contiguous float32 arrays are held, not copied, but for the pooling's norms.

    Raises:
        KeyError: A weight is missing.
        ValueError: Shapes do not fit one another.
        BackendError: `ASA_CPU_ISA` names an instruction set this CPU lacks.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        isa()
        weights = dict(weights)
        prior_width, width = weights["prior_fc1.weight"].shape
        norms = sum(name.startswith("pool_norms.") for name in weights) // 2
        for kind in ("weight", "bias"):
            weights[f"pool_norms.{kind}"] = np.stack(
                [weights[f"pool_norms.{i}.{kind}"] for i in range(norms)]
            )
        sizes = [
            width,
            norms - 2,
            prior_width,
            len(weights["prior_fc2.bias"]),
            len(weights["prior_projector.bias"]),
            len(weights["head_fc1.bias"]),
            len(weights["head_fc2.bias"]),
        ]
        if "kernel_centres" in weights:
            place, profile = weights["kernel_projection"].shape
            sizes += [profile // (2 * width), place, len(weights["kernel_centres"])]
            names = HEAD_NAMES + REGRESSOR_NAMES
        else:
            sizes += [0, 0, 0]
            names = HEAD_NAMES
        self._head = _kernels.Head(
            sizes, [np.ascontiguousarray(weights[name], np.float32) for name in names]
        )

    def __call__(
        self, stats: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute prior and scores; several threads may call at once.

        Args:
            stats: What `asa_engine.kernels.encoder.pool` gives, followed, where there is a kernel
                regressor, by the moments of `Encoder.encode_with_moments`; float32 [n].

        Returns:
            Scores float32 [aspects], and the prior's probabilities float32 [levels].

        Raises:
            ValueError: `stats` is of another length.
            TypeError: `stats` is not contiguous float32 [n].
        """
        return self._head.run(stats)
