"""ONNX Runtime on an NVIDIA GPU: its CUDA provider, and its TensorRT provider.

Both run the typed graphs of `asa_export.typed`. Inputs and outputs are bound to memory of the
device that is made once for each shape, ONNX Runtime's own fall back to the CPU counts as a
failure, and the CUDA provider records work of a shape that comes again as one CUDA graph.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.errors import BackendError
from asa_engine.gpu.device import Outputs
from asa_engine.gpu.tensorrt_engines import MAX_BATCH, EngineCache, Profile, cache_folder
from asa_engine.graders.acoustic.backends.base import (
    DeviceBackend,
    HeadOutput,
    Mels,
    Sums,
    of_one_length,
)
from asa_engine.graders.acoustic.backends.tensorrt import profile_of
from asa_engine.runtimes.onnxruntime import session
from asa_engine.runtimes.onnxruntime_gpu import (
    CUDA_PROVIDER,
    PLAIN,
    TENSORRT_PROVIDER,
    Options,
    claim_gpu,
    gpu_session,
)

__all__ = ["Bound", "OnnxRuntimeCudaBackend", "OnnxRuntimeTensorRTBackend"]

_SPARE_BYTES: Final = 512 * 2**20
"""Room for CUDA's context, workspaces and a batch, beside the weights."""
_SHAPES_KEPT: Final = 16
_UNRECORDED: Final = -1
_SCORED: Final = ("stats", "scores", "prior")


class OnnxRuntimeCudaBackend(DeviceBackend):
    """The CUDA provider.

    Args:
        graph: The session.
        head: The head's session, on the CPU.
        precision: The graph's.
        device: Where inputs and outputs live: "cuda", or "cpu" in a test.
        full: Mel frames of a full window: the length that comes again.
    """

    name = "onnxruntime-cuda"
    provider: ClassVar[str] = CUDA_PROVIDER

    def __init__(self, graph: Any, head: Any, *, precision: str, device: str, full: int) -> None:
        self.precision = precision
        self.threads = 1
        self._graph = graph
        self._head = head
        self._device = device
        self._full = full
        self._bound: dict[tuple[int, ...], Bound] = {}
        self._recorded: dict[tuple[int, ...], Bound] = {}

    @classmethod
    def open(cls, bundle: Bundle, *, precision: str, threads: int) -> Self:
        """Check GPU and memory, then create the session."""
        path = bundle.file("grader", cls.name, precision)
        gpu, _ = claim_gpu(cls.provider)
        gpu.need((bundle.path / WEIGHTS_NAME).stat().st_size + _SPARE_BYTES, "the model")
        gpu.close()
        profile = profile_of(bundle)
        graph = gpu_session(path, cls.provider, cls._options(precision, profile))
        head = session(bundle.file("head", cls.name, precision), 1)
        return cls(graph, head, precision=precision, device="cuda", full=profile.mel_frames)

    @classmethod
    def _options(cls, precision: str, profile: Profile) -> Options:
        return {**PLAIN, "enable_cuda_graph": "1"}

    def encode_many(self, mels: Mels, sums: Sums = None, *, frames: bool = False) -> Outputs:
        """Run windows of one length together; lengths take turns."""
        scored: dict[str, list[NDArray[np.float32]]] = {name: [] for name in _SCORED}
        kept: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * len(mels)
        order: list[int] = []
        for rows in of_one_length(mels, MAX_BATCH):
            batch = np.stack([mels[row] for row in rows])
            outputs = self._bind(batch.shape).run(batch, None if sums is None else sums[rows])
            for name, parts in scored.items():
                parts.append(outputs[name].numpy())
            if frames:
                for row, value in zip(rows, outputs["frames"].numpy(), strict=True):
                    kept[row] = value.copy()
            order += rows
        back = np.argsort(order)
        stats, scores, prior = (np.concatenate(scored[name])[back] for name in _SCORED)
        return Outputs(stats, scores, prior, kept if frames else None)

    def head(self, stats: NDArray[np.float32]) -> HeadOutput:
        """Score statistics that are on the host; on the CPU, for they are few."""
        scores, prior = self._head.run(["scores", "prior"], {"stats": stats[np.newaxis]})
        return HeadOutput(scores[0], prior[0])

    def _bind(self, shape: tuple[int, ...]) -> Bound:
        """Return the buffers of a shape.

        Batches of full windows come again: they are recorded, and their buffers never given back,
        for a recording holds addresses.
        """
        kept, number = self._bound, _UNRECORDED
        if shape in self._recorded or (
            shape[2] == self._full and len(self._recorded) < _SHAPES_KEPT
        ):
            kept, number = self._recorded, shape[0]
        elif shape not in kept and len(kept) >= _SHAPES_KEPT:
            kept.pop(next(iter(kept)))
        if shape not in kept:
            kept[shape] = Bound(self._graph, shape, self._device, number)
        return kept[shape]


class OnnxRuntimeTensorRTBackend(OnnxRuntimeCudaBackend):
    """The TensorRT provider: engines built by ONNX Runtime, kept in the cache of engines."""

    name = "onnxruntime-tensorrt"
    provider = TENSORRT_PROVIDER

    @classmethod
    def _options(cls, precision: str, profile: Profile) -> Options:
        folder = cache_folder() / "onnxruntime"
        EngineCache(folder)
        ranges = profile.ranges()
        shapes = {
            place: ",".join(
                f"{name}:" + "x".join(map(str, of_profile[name][index])) for name in ranges[0]
            )
            for index, (place, of_profile) in enumerate(
                (("min", ranges[0]), ("opt", ranges[0]), ("max", ranges[-1]))
            )
        }
        options = {
            "device_id": "0",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
            # Otherwise a LayerNorm of float32 may run at half precision.
            "trt_layer_norm_fp32_fallback": "1",
            **{f"trt_profile_{place}_shapes": shape for place, shape in shapes.items()},
        }
        for kind in {"int8": ("int8", "fp16"), "fp32": ()}.get(precision, (precision,)):
            options[f"trt_{kind}_enable"] = "1"
        return options


class Bound:
    """One shape's inputs and outputs, bound to memory of the device for good.

    Args:
        graph: The session.
        shape: Of the log-mels, [windows, n_mels, T].
        device: "cuda", or "cpu" in a test.
        recording: Number under which the work is recorded; -1 to run it call by call.
    """

    def __init__(self, graph: Any, shape: tuple[int, ...], device: str, recording: int) -> None:
        import onnxruntime as ort

        self._graph = graph
        self._binding = graph.io_binding()
        shapes = {item.name: item.shape for item in graph.get_inputs()}
        self._sums_shape = (shape[0], shapes["sums"][1])
        self._inputs = {
            "mel": self._make(shape, device),
            "sums": self._make(self._sums_shape, device),
        }
        sizes = {item.name: item.shape for item in graph.get_outputs()}
        self._outputs = {
            name: self._make((shape[0], sizes[name][1]), device)
            for name in ("stats", "scores", "prior")
        }
        frames = (shape[0], -(-shape[2] // 2), sizes["frames"][2])
        self._outputs["frames"] = self._make(frames, device)
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(recording))

    def run(self, mels: NDArray[np.float32], sums: NDArray[np.float64] | None) -> dict[str, Any]:
        """Run once; return the outputs, which are overwritten by the next run.

        Raises:
            BackendError: The device failed.
        """
        before = np.zeros(self._sums_shape, np.float32) if sums is None else sums
        self._inputs["mel"].update_inplace(np.ascontiguousarray(mels, np.float32))
        self._inputs["sums"].update_inplace(np.ascontiguousarray(before, np.float32))
        try:
            self._graph.run_with_iobinding(self._binding, self._options)
        except Exception as failure:  # onnxruntime raises its own, unrelated exception types
            raise BackendError(
                f"onnxruntime failed on the GPU: {failure}",
                hint="run 'asa-engine doctor'; another process may have taken the memory",
            ) from None
        return self._outputs

    @staticmethod
    def _make(shape: tuple[int, ...], device: str) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, 0)
