"""ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from asa_engine.errors import BackendError
from asa_engine.profiling import operator_trace_folder
from asa_engine.runtimes.base import Availability, Runtime

__all__ = ["OnnxRuntime", "session"]

_INSTALL: Final = "pip install 'asa-engine[onnx]'"


class OnnxRuntime(Runtime):
    """Runs graphs, on the CPU."""

    name = "onnxruntime"

    @classmethod
    def availability(cls) -> Availability:
        """Usable where onnxruntime is installed, or onnxruntime-gpu, which holds all of it."""
        for package in ("onnxruntime", "onnxruntime-gpu"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                return Availability(True, "CPU provider", {package: metadata.version(package)})
        return Availability(False, f"onnxruntime is not installed ({_INSTALL})")


def session(path: Path, threads: int, *, mapped: bool = False) -> Any:
    """Create a CPU session that sleeps when idle instead of spinning.

    Weights beside the graph are mapped, and let go where the runtime packs them anew.

    Args:
        path: The graph.
        threads: Threads one call may use.
        mapped: Leave weights of half precision mapped as they are, widened by every call, in place
            of a copy at float32: half the memory, for a little time in each call.

    Raises:
        BackendError: ONNX Runtime is not installed, or cannot load it.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise BackendError(f"{path.name} is a graph for ONNX Runtime", hint=_INSTALL) from None

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if (folder := operator_trace_folder()) is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / path.stem)
    try:
        return ort.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["ConstantFolding"] if mapped else None,
        )
    except Exception as failure:  # onnxruntime raises its own, unrelated exception types
        raise BackendError(
            f"onnxruntime cannot load {path.name}: {failure}",
            hint="export the bundle again with this version of onnxruntime",
        ) from None
