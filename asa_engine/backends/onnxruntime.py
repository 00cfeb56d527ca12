"""ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.backends.base import Availability, Backend, Encoded, HeadOutput
from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError
from asa_engine.profiling import operator_trace_folder

__all__ = ["OnnxRuntimeBackend", "session"]


class OnnxRuntimeBackend(Backend):
    """Runs `encoder` (mel -> stats, frames) and `head` (stats -> scores, prior) sessions."""

    name = "onnxruntime"

    def __init__(self, encoder: Path, head: Path, *, precision: str, threads: int) -> None:
        self.precision = precision
        self.threads = threads
        self._encoder = session(encoder, threads)
        self._head = session(head, 1)

    @classmethod
    def availability(cls) -> Availability:
        """Usable where the onnxruntime package is installed."""
        for package in ("onnxruntime", "onnxruntime-gpu"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                return Availability(True, "CPU provider", {package: metadata.version(package)})
        return Availability(False, "the package onnxruntime is not installed")

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


def session(path: Path, threads: int) -> Any:
    """Create a CPU session that sleeps when idle instead of spinning.

    Args:
        path: The graph.
        threads: Threads one call may use.

    Raises:
        BackendError: ONNX Runtime cannot load it.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if (folder := operator_trace_folder()) is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / path.stem)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as failure:  # onnxruntime raises its own, unrelated exception types
        raise BackendError(
            f"onnxruntime cannot load {path.name}: {failure}",
            mend="export the bundle again with this version of onnxruntime",
        ) from None
