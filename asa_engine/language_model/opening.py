"""A language model from its file, whatever runs it."""

from __future__ import annotations

from pathlib import Path

from asa_engine.language_model.base import CausalModel
from asa_engine.language_model.decoder import Decoder
from asa_engine.language_model.native import NativeModel

__all__ = ["open_model"]


def open_model(path: Path, *, threads: int, device: str = "") -> CausalModel:
    """Open tensors on the project's kernels, and a graph on ONNX Runtime.

    Args:
        path: A `.safetensors` file, or an `.onnx` one.
        threads: Threads one pass may use.
        device: "cuda" for the graph's CUDA provider; "" for the CPU.

    Raises:
        BackendError: It cannot be run here.
        BundleError: It holds no language model.
        CheckpointError: A tensor is missing or of another shape.
    """
    if path.suffix == ".safetensors":
        return NativeModel.open(path, threads=threads)
    return Decoder.open(path, threads=threads, device=device)
