"""The PyTorch reference as a backend: what every other backend is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import Bundle
from asa_engine.graders.acoustic.backends.base import Backend, Encoded, HeadOutput
from asa_engine.runtimes.torch import TorchRuntime

if TYPE_CHECKING:
    from asa_engine.graders.acoustic.model import AcousticGrader

__all__ = ["TorchBackend"]


class TorchBackend(Backend):
    """Runs the grader's own PyTorch module from the checkpoint inside the bundle.

    `threads` sets PyTorch's thread count, which is one for the whole process.
    """

    name = "torch"

    def __init__(self, grader: AcousticGrader, *, precision: str, threads: int) -> None:
        import torch

        self.precision = precision
        self.threads = threads
        self._grader = grader.eval()
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    @classmethod
    def open(cls, bundle: Bundle, *, precision: str, threads: int) -> Self:
        """Load config.json and weights.safetensors of the bundle."""
        TorchRuntime.need(threads, precision, of=("fp32", "bf16"))

        from asa_engine.graders.acoustic.model import AcousticGrader

        return cls(AcousticGrader.load(bundle.path), precision=precision, threads=threads)

    def encode(self, mel: NDArray[np.float32], *, frames: bool = False) -> Encoded:
        """Encode one window with the reference module (autocast at bf16)."""
        import torch

        lower = self._dtype is not torch.float32
        with torch.inference_mode(), torch.autocast("cpu", self._dtype, enabled=lower):
            encoded, stats = self._grader.encode_window(torch.from_numpy(mel).unsqueeze(0))
        pooled = stats[0].float().numpy()
        return Encoded(pooled, encoded[0].float().numpy() if frames else None)

    def head(self, stats: NDArray[np.float32]) -> HeadOutput:
        """Compute prior and scores in fp32."""
        import torch

        with torch.inference_mode():
            output = self._grader.head(torch.from_numpy(stats).unsqueeze(0))
        return HeadOutput(output.scores[0].numpy(), output.prior_probabilities[0].numpy())
