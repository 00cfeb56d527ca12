"""TensorRT or TensorRT-RTX on an NVIDIA GPU: encoder, prior and head in one engine.

Log-mels go up through page-locked memory, one engine runs, and statistics, scores and prior come
down: nothing in between meets the host. Work of a shape that comes again is launched as one graph:
TensorRT-RTX records it itself, for TensorRT it is recorded here.

The engine comes from the bundle if it holds one for this library and GPU, or else from this
machine's cache, where it is built from the bundle's graph if need be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.errors import BackendError
from asa_engine.gpu.device import Outputs, frames_of
from asa_engine.gpu.device_memory import CudaDriver, Gpu, Graph, Staged, cuda_text
from asa_engine.gpu.tensorrt_engines import (
    MAX_BATCH,
    EngineCache,
    EngineKey,
    Library,
    Profile,
    cache_folder,
    engine_logger,
    engine_name,
    load_library,
    model_sha256,
    read_engine,
)
from asa_engine.graders.acoustic.backends.base import (
    DeviceBackend,
    HeadOutput,
    Mels,
    Sums,
    of_one_length,
)
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.runtimes.onnxruntime import session

__all__ = ["TensorRTBackend", "profile_of"]

_GRAPHS: Final = 16
_INPUTS: Final = ("mel", "sums")
_OUTPUTS: Final = ("stats", "scores", "prior", "frames")


def profile_of(bundle: Bundle, batch: int = MAX_BATCH) -> Profile:
    """Return the shapes that an engine of a bundle's acoustic grader is made for."""
    config = AcousticConfig.from_dict(bundle.config)
    return Profile(batch, config.encoder.n_mels, 2 * config.window_frames, config.stats_width)


class TensorRTBackend(DeviceBackend):
    """An engine, loaded.

    Args:
        gpu: Where it runs.
        library: TensorRT or TensorRT-RTX.
        engine: Serialised.
        bundle: What it was built of.
        precision: The graph's.
        origin: How the engine came here, in one line.

    Raises:
        BackendError: It is not for this GPU, or does not fit its memory.
    """

    name = "tensorrt"

    def __init__(
        self,
        gpu: Gpu,
        library: Library,
        engine: bytes,
        bundle: Bundle,
        precision: str,
        origin: str,
    ) -> None:
        self.precision = precision
        self.threads = 1
        self.origin = origin
        self._gpu = gpu
        self._library = library
        self._machine = gpu.machine()
        self._profile = profile = profile_of(bundle)
        config = AcousticConfig.from_dict(bundle.config)
        frames = frames_of(profile.mel_frames)
        self._shapes: dict[str, tuple[int, ...]] = {
            "mel": (profile.mels, profile.mel_frames),
            "sums": (profile.stats,),
            "stats": (profile.stats,),
            "scores": (len(config.aspects),),
            "prior": (len(config.prior_levels),),
            "frames": (frames, config.encoder.d_model),
        }
        self._head = session(bundle.file("head", self.name, precision), 1)
        self._buffers: dict[str, Staged] = {}
        self._graphs: dict[tuple[int, int], Graph] = {}
        with gpu.current():
            self._load(engine)

    @classmethod
    def open(cls, bundle: Bundle, *, precision: str, threads: int) -> Self:
        """Take the bundle's engine, or the cache's, or build one."""
        graph = bundle.file("grader", cls.name, precision)
        library = load_library()
        driver = CudaDriver.open()
        driver.require(library.cuda_major, library.name)
        gpu = Gpu(driver)
        profile = profile_of(bundle)
        key = EngineKey(
            library=library.name,
            version=library.version,
            compute_capability="{}.{}".format(*gpu.machine().compute_capability),
            driver=cuda_text(driver.version),
            model_sha256=model_sha256(graph, bundle.path / WEIGHTS_NAME, profile),
        )
        engine, origin = _shipped(bundle, precision, key)
        if engine is None:
            cache = EngineCache(cache_folder())
            try:
                with gpu.current():
                    engine, how = cache.obtain(key, library, graph, profile)
            except BackendError as error:
                message = f"{error.message}; the bundle's own engine is not used: {origin}"
                raise BackendError(message, hint=error.hint) from None
            origin = f"{how}; the bundle's is not used: {origin}"
        return cls(gpu, library, engine, bundle, precision, origin)

    def encode_many(self, mels: Mels, sums: Sums = None, *, frames: bool = False) -> Outputs:
        """Run windows of one length together, at most `MAX_BATCH`; lengths take turns."""
        count = len(mels)
        outputs = {
            name: np.empty((count, *self._shapes[name]), np.float32)
            for name in ("stats", "scores", "prior")
        }
        kept: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * count
        for rows in of_one_length(mels, MAX_BATCH):
            shapes = self._run([mels[row] for row in rows], None if sums is None else sums[rows])
            for name, values in outputs.items():
                values[rows] = self._buffers[name].host(shapes[name])
            if frames:
                for row, value in zip(
                    rows, self._buffers["frames"].host(shapes["frames"]), strict=True
                ):
                    kept[row] = value.copy()
        return Outputs(**outputs, frames=kept if frames else None)

    def head(self, stats: NDArray[np.float32]) -> HeadOutput:
        """Score statistics that are on the host; on the CPU, for they are few."""
        scores, prior = self._head.run(["scores", "prior"], {"stats": stats[np.newaxis]})
        return HeadOutput(scores[0], prior[0])

    def versions(self) -> dict[str, str]:
        """Return library, driver and GPU."""
        return {
            self._library.name: self._library.version,
            "cuda_driver": cuda_text(self._gpu.driver.version),
            "gpu": self._machine.name,
            "engine": self.origin,
        }

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._contexts.clear()
        del self._engine
        for graph in self._graphs.values():
            graph.close()
        for buffer in self._buffers.values():
            buffer.close()
        self._gpu.close()

    def _load(self, engine: bytes) -> None:
        """Load the engine, having made sure of the memory, and make the buffers."""
        trt = self._library.module
        held = 4 * MAX_BATCH * sum(int(np.prod(shape)) for shape in self._shapes.values())
        self._gpu.need(len(engine) + held, "the engine")
        logger = engine_logger(trt)
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise BackendError(
                f"{self._library.name} refuses the engine: {'; '.join(logger.said[-2:])}",
                hint="remove it from the cache ($ASA_ENGINES), or export the bundle again here",
            )
        profiles = self._engine.num_optimization_profiles
        scratch = profiles * self._engine.device_memory_size_v2
        self._gpu.need(scratch + held, "a batch")
        self._contexts = [self._context(index) for index in range(profiles)]
        for name, shape in self._shapes.items():
            self._buffers[name] = Staged(self._gpu, (MAX_BATCH, *shape))

    def _context(self, profile: int) -> Any:
        settings = []
        if self._records_itself:
            config = self._engine.create_runtime_config()
            strategies = self._library.module.CudaGraphStrategy
            config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE
            settings = [config]
        context = self._engine.create_execution_context(*settings)
        if context is None:
            raise BackendError(
                f"{self._library.name} makes no context: the GPU's memory is short",
                hint="free some (nvidia-smi names the processes)",
            )
        context.set_optimization_profile_async(profile, self._gpu.stream)
        self._gpu.wait()
        return context

    @property
    def _records_itself(self) -> bool:
        return hasattr(self._library.module, "CudaGraphStrategy")

    def _run(
        self, mels: Sequence[NDArray[np.float32]], sums: NDArray[np.float64] | None
    ) -> dict[str, tuple[int, ...]]:
        """Run windows of one length; return the shapes of what then lies in the buffers."""
        count, length = len(mels), mels[0].shape[1]
        shapes = {name: (count, *shape) for name, shape in self._shapes.items()}
        shapes["mel"] = (count, self._profile.mels, length)
        shapes["frames"] = (count, frames_of(length), self._shapes["frames"][1])
        np.stack(mels, out=self._buffers["mel"].host(shapes["mel"]))
        self._buffers["sums"].host(shapes["sums"])[:] = 0 if sums is None else sums
        graph = self._graphs.get((count, length))
        with self._gpu.current():
            if graph is not None:
                graph.launch()
            else:
                self._give(shapes)
                self._gpu.wait()
                if not self._records_itself and length == self._profile.mel_frames:
                    self._record(shapes)
            self._gpu.wait()
        return shapes

    def _record(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Record work that will come again: batches of full windows."""
        if len(self._graphs) < _GRAPHS:
            graph = Graph(self._gpu)
            with graph.record():
                self._give(shapes)
            count, _, length = shapes["mel"]
            self._graphs[count, length] = graph

    def _give(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Give one batch to the stream: inputs up, the engine, outputs down."""
        context = self._contexts[0 if shapes["mel"][0] == 1 else -1]
        for name in _INPUTS:
            self._buffers[name].up(shapes[name])
            if not context.set_input_shape(name, shapes[name]):
                raise BackendError(
                    f"the engine takes no {name} of shape {list(shapes[name])}",
                    hint="windows are those of the bundle's configuration",
                )
        for name in (*_INPUTS, *_OUTPUTS):
            context.set_tensor_address(name, self._buffers[name].pointer)
        if not context.execute_async_v3(self._gpu.stream):
            raise BackendError(
                f"{self._library.name} could not run the engine",
                hint="run 'asa-engine doctor'; another process may have taken the memory",
            )
        for name in _OUTPUTS:
            self._buffers[name].down(shapes[name])


def _shipped(bundle: Bundle, precision: str, key: EngineKey) -> tuple[bytes | None, str]:
    """Return the bundle's engine for this GPU, or why there is none."""
    name = engine_name(precision, key.compute_capability)
    if name not in bundle.artifacts:
        made = sorted(Path(file).stem for file in bundle.artifacts if file.endswith(".engine"))
        return None, f"it holds {', '.join(made) or 'none'}, and this is {Path(name).stem}"
    engine, why = read_engine(bundle.path / name, key)
    return engine, why or "the bundle's"
