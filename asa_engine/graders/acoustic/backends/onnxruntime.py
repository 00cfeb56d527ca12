"""The acoustic grader on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import Bundle
from asa_engine.graders.acoustic.backends.base import Backend, Encoded, HeadOutput
from asa_engine.runtimes.onnxruntime import session

__all__ = ["OnnxRuntimeBackend"]


class OnnxRuntimeBackend(Backend):
    """Runs `encoder` (mel -> stats, frames) and `head` (stats -> scores, prior) sessions."""

    name = "onnxruntime"

    def __init__(self, encoder: Path, head: Path, *, precision: str, threads: int) -> None:
        self.precision = precision
        self.threads = threads
        self._encoder = session(encoder, threads)
        self._head = session(head, 1)

    @classmethod
    def open(cls, bundle: Bundle, *, precision: str, threads: int) -> Self:
        """Create both sessions."""
        return cls(
            bundle.file("encoder", cls.name, precision),
            bundle.file("head", cls.name, precision),
            precision=precision,
            threads=threads,
        )

    def encode(self, mel: NDArray[np.float32], *, frames: bool = False) -> Encoded:
        """Encode one window; frames are copied out only when asked for."""
        wanted = ["stats", "frames"] if frames else ["stats"]
        outputs = self._encoder.run(wanted, {"mel": mel[np.newaxis]})
        return Encoded(outputs[0][0], outputs[1][0] if frames else None)

    def head(self, stats: NDArray[np.float32]) -> HeadOutput:
        """Run the head session on one recording's statistics."""
        scores, prior = self._head.run(["scores", "prior"], {"stats": stats[np.newaxis]})
        return HeadOutput(scores[0], prior[0])
