"""Stand-ins for an NVIDIA driver and for TensorRT, at the boundary where the engine meets them.

The driver's memory is the host's: a pointer of the fake GPU is an address that can be read. The
fake TensorRT's engine names an ONNX graph, which ONNX Runtime runs on the CPU on those addresses.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray


class FakeCuda:
    """What `ctypes.CDLL("libcuda.so.1")` is in the tests.

    Args:
        version: Newest CUDA that it runs.
        capability: Compute capability of its one GPU.
        free_mib: Memory that is free.
        fails: Function -> error code that it answers with.
        devices: Number of GPUs.
    """

    def __init__(
        self,
        version: int = 13000,
        capability: tuple[int, int] = (8, 9),
        free_mib: int = 8000,
        fails: dict[str, int] | None = None,
        devices: int = 1,
    ) -> None:
        self.version = version
        self.capability = capability
        self.free_mib = free_mib
        self.fails = fails or {}
        self.devices = devices
        self.held: dict[int, Any] = {}
        self.copied_down = 0
        self.launches = 0
        self.recording: list[Callable[[], None]] | None = None
        self.recorded: dict[int, list[Callable[[], None]]] = {}

    def submit(self, work: Callable[[], None]) -> None:
        """Run work now, or record it."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(name)
        answer = getattr(type(self), f"_{name}", None)

        def call(*arguments: Any) -> int:
            if name in self.fails:
                return self.fails[name]
            if answer is not None:
                answer(self, *arguments)
            return 0

        return call

    def _cuGetErrorString(self, code: int, text: Any) -> None:
        text._obj.value = {2: b"out of memory", 100: b"no CUDA-capable device"}.get(code, b"failed")

    def _cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = self.version

    def _cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.devices

    def _cuDeviceGetName(self, name: Any, size: int, device: Any) -> None:
        name.value = b"Fake GPU"

    def _cuDeviceGetAttribute(self, value: Any, which: int, device: Any) -> None:
        value._obj.value = self.capability[which - 75]

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = self.free_mib * 2**20, 16000 * 2**20

    def _cuStreamCreate(self, stream: Any, flags: int) -> None:
        stream._obj.value = 1

    def _cuMemAlloc_v2(self, pointer: Any, size: Any) -> None:
        buffer = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(buffer)
        self.held[ctypes.addressof(buffer)] = buffer

    def _cuMemHostAlloc(self, pointer: Any, size: Any, flags: int) -> None:
        self._cuMemAlloc_v2(pointer, size)

    def _cuMemFree_v2(self, pointer: Any) -> None:
        del self.held[pointer.value]

    _cuMemFreeHost = _cuMemFree_v2

    def _cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        self.submit(lambda: ctypes.memmove(target.value, source.value, size.value) and None)

    def _cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        self.copied_down += 1
        self.submit(lambda: ctypes.memmove(target.value, source.value, size.value) and None)

    def _cuStreamBeginCapture_v2(self, stream: Any, mode: int) -> None:
        self.recording = []

    def _cuStreamEndCapture(self, stream: Any, graph: Any) -> None:
        number = len(self.recorded) + 1
        self.recorded[number], self.recording = self.recording or [], None
        graph._obj.value = number

    def _cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> None:
        executable._obj.value = graph.value

    def _cuGraphLaunch(self, executable: Any, stream: Any) -> None:
        self.launches += 1
        for work in self.recorded[executable.value]:
            work()


def fake_tensorrt(
    cuda: FakeCuda, *, version: str = "11.4.0", rtx: bool = False, builds: bool = True
) -> ModuleType:
    """Return a module with the part of TensorRT's interface that the engine uses.

    Args:
        cuda: The driver that its engines run on.
        version: What it calls itself.
        rtx: Whether it is TensorRT-RTX, which builds for other GPUs and records graphs itself.
        builds: Whether its builder works.
    """
    module: Any = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    module.__version__ = version
    module.built = 0
    module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    module.BuilderFlag = SimpleNamespace(TF32=7)
    if rtx:
        module.ComputeCapability = SimpleNamespace(
            __members__={"NONE": 0, "SM86": 86, "SM89": 89, "SM120": 120}
        )
        module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE=1)

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = "error", "internal", "warning"

    class Parser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None:
            self.network = network

        def parse_from_file(self, path: str) -> bool:
            self.network.path = path
            return Path(path).is_file()

        def get_error(self, index: int) -> str:
            return "the file is not there"

    class Config:
        def __init__(self) -> None:
            self.capabilities: dict[int, int] = {}
            self.profiles: list[Any] = []
            self.cleared: list[int] = []

        def clear_flag(self, flag: int) -> None:
            self.cleared.append(flag)

        def add_optimization_profile(self, profile: Any) -> None:
            self.profiles.append(profile.shapes)

        def set_compute_capability(self, kind: int, index: int) -> None:
            self.capabilities[index] = kind

    class Shapes:
        def __init__(self) -> None:
            self.shapes: dict[str, Any] = {}

        def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
            self.shapes[name] = (low, best, high)

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Any:
            assert flags == 2, "the network must be strongly typed"
            return SimpleNamespace()

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Shapes:
            return Shapes()

        def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
            if not builds:
                self.logger.log(ILogger.ERROR, "no kernel for this GPU")
                return None
            assert config.cleared == [module.BuilderFlag.TF32]
            module.built += 1
            made = {
                "path": network.path,
                "capabilities": list(config.capabilities.values()),
                "profiles": config.profiles,
            }
            return json.dumps(made).encode()

    class Context:
        def __init__(self, engine: Any) -> None:
            self.engine = engine
            self.profile: int | None = None
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.addresses: dict[str, int] = {}

        def set_optimization_profile_async(self, index: int, stream: int) -> None:
            self.profile = index

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            low, _, high = self.engine.profiles[self.profile][name]
            self.shapes[name] = shape
            return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

        def set_tensor_address(self, name: str, pointer: int) -> None:
            self.addresses[name] = pointer

        def execute_async_v3(self, stream: int) -> bool:
            shapes = dict(self.shapes)
            cuda.submit(lambda: self._run(shapes))
            return "cuLaunchKernel" not in cuda.fails

        def _run(self, shapes: dict[str, tuple[int, ...]]) -> None:
            inputs = {name: self._at(name, shape) for name, shape in shapes.items()}
            names = [item.name for item in self.engine.session.get_outputs()]
            for name, value in zip(names, self.engine.session.run(names, inputs), strict=True):
                self._at(name, value.shape)[...] = value

        def _at(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
            size = int(np.prod(shape))
            flat = (ctypes.c_float * size).from_address(self.addresses[name])
            return np.frombuffer(flat, np.float32).reshape(shape)

    class Engine:
        device_memory_size_v2 = 2**20

        def __init__(self, made: dict[str, Any]) -> None:
            from asa_export.typed import on_cpu

            self.profiles = made["profiles"]
            self.num_optimization_profiles = len(self.profiles)
            path = Path(made["path"])
            here = path.with_name(f"fake.{path.name}")
            onnx.save(on_cpu(onnx.load(path, load_external_data=False)), here)
            self.session = ort.InferenceSession(str(here), providers=["CPUExecutionProvider"])

        def create_runtime_config(self) -> Any:
            return SimpleNamespace()

        def create_execution_context(self, config: Any = None) -> Context:
            assert (config is not None) == rtx
            assert not rtx or config.cuda_graph_strategy == 1
            return Context(self)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, engine: bytes) -> Engine | None:
            try:
                return Engine(json.loads(engine))
            except ValueError:
                self.logger.log(ILogger.ERROR, "magic tag does not match")
                return None

    module.ILogger, module.Builder, module.OnnxParser = ILogger, Builder, Parser
    module.Runtime = Runtime
    return module  # type: ignore[no-any-return]
