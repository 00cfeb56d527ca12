"""An NVIDIA GPU through its driver's own library, without any package: what is there, and memory.

`libcuda.so.1` comes with the driver. Everything that can be wrong with a GPU before a model runs
is found out here and said in one line: no driver, no device, a driver older than the library that
needs it, a GPU that is too old or too small.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import BackendError
from asa_engine.gpu.device import Machine

__all__ = ["CudaDriver", "Gpu", "Graph", "Staged", "cuda_text"]

_LIBRARY: Final = "libcuda.so.1"
_MAJOR_ATTRIBUTE: Final = 75
_MINOR_ATTRIBUTE: Final = 76
_NAME_BYTES: Final = 256
_THREAD_LOCAL_CAPTURE: Final = 1
_MIB: Final = 2**20
_MENDS: Final = {
    100: "check that the GPU is visible here (nvidia-smi; --gpus all in a container)",
    101: "check CUDA_VISIBLE_DEVICES",
    802: "wait until the driver has started its fabric, or restart it",
    803: "the driver's library and kernel module are of two versions: restart the machine",
    804: "this driver's compatibility library is not for this GPU: install a newer driver",
}
_INSTALL: Final = "install NVIDIA's driver; in a container, start it with --gpus all"
_CALLS: Final = (
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
)


def mib(size_bytes: int) -> str:
    """Return a size for people, rounded up."""
    return f"{-(-size_bytes // 2**20)} MiB"


def cuda_text(version: int) -> str:
    """Return a CUDA version as people write it: 13020 is "13.2"."""
    return f"{version // 1000}.{version % 1000 // 10}"


class CudaDriver:
    """The driver's functions, each checked.

    Args:
        library: What `ctypes` loaded, or what stands in for it in a test.

    Attributes:
        version: Newest CUDA that the driver runs, such as 13020.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        if missing := [name for name in _CALLS if not hasattr(library, name)]:
            raise BackendError(
                f"NVIDIA's driver is too old: it lacks {missing[0]}",
                hint="install a newer driver",
            )
        self.call("cuInit", 0)
        version = c_int()
        self.call("cuDriverGetVersion", byref(version))
        self.version = version.value

    @classmethod
    def open(cls) -> CudaDriver:
        """Load the driver's library.

        Raises:
            BackendError: There is no driver, or no device, or they do not fit each other.
        """
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError:
            raise BackendError(
                f"this machine has no NVIDIA driver ({_LIBRARY} is not there)", hint=_INSTALL
            ) from None
        return cls(library)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver.

        Raises:
            BackendError: It says that it failed.
        """
        code = int(getattr(self._library, name)(*arguments))
        if code:
            text = c_char_p()
            self._library.cuGetErrorString(code, byref(text))
            said = (text.value or b"unknown error").decode("ascii", "replace")
            raise BackendError(
                f"the GPU's driver refuses {name}: {said} (CUDA error {code})",
                hint=_MENDS.get(code, "run 'asa-engine doctor', or choose a backend of the CPU"),
            )

    def require(self, major: int, library: str) -> None:
        """Check that the driver is new enough for a library of a major version of CUDA.

        Raises:
            BackendError: It is older.
        """
        if self.version // 1000 < major:
            raise BackendError(
                f"the driver runs CUDA up to {cuda_text(self.version)}; {library} needs CUDA "
                f"{major}",
                hint=f"install a driver for CUDA {major}, or {library} for an older CUDA",
            )

    @property
    def devices(self) -> int:
        """Number of GPUs this process may use."""
        count = c_int()
        self.call("cuDeviceGetCount", byref(count))
        return count.value


class Gpu:
    """One GPU and one stream of work on it. For one thread at a time.

    Args:
        driver: The driver.
        index: Which of its devices.

    Attributes:
        stream: Handle of the stream.

    Raises:
        BackendError: There is no such device, or it fails.
    """

    def __init__(self, driver: CudaDriver, index: int = 0) -> None:
        if not 0 <= index < driver.devices:
            raise BackendError(
                f"there is no GPU {index}: this process may use {driver.devices}",
                hint="check CUDA_VISIBLE_DEVICES and nvidia-smi",
            )
        self.driver = driver
        self._device = c_int()
        driver.call("cuDeviceGet", byref(self._device), index)
        self._context = c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)
        stream = c_void_p()
        with self.current():
            driver.call("cuStreamCreate", byref(stream), 1)
        self.stream: int = stream.value or 0

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the calling thread's own inside the block."""
        self.driver.call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            popped = c_void_p()
            self.driver.call("cuCtxPopCurrent_v2", byref(popped))

    def machine(self) -> Machine:
        """Describe the GPU as it is now."""
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self.driver.call("cuDeviceGetName", name, _NAME_BYTES, self._device)
        free, total = c_size_t(), c_size_t()
        with self.current():
            self.driver.call("cuMemGetInfo_v2", byref(free), byref(total))
        capability = self._attribute(_MAJOR_ATTRIBUTE), self._attribute(_MINOR_ATTRIBUTE)
        return Machine(
            name=name.value.decode("utf-8", "replace"),
            compute_capability=capability,
            driver=f"CUDA {cuda_text(self.driver.version)}",
            total_bytes=total.value,
            free_bytes=free.value,
        )

    def need(self, size_bytes: int, what: str) -> None:
        """Check that so much memory is free now, whoever holds the rest.

        Raises:
            BackendError: It is not. Nothing was allocated.
        """
        machine = self.machine()
        if size_bytes > machine.free_bytes:
            raise BackendError(
                f"{what} takes {math.ceil(size_bytes / _MIB)} MiB of GPU memory; {machine.name} "
                f"has {machine.free_bytes // _MIB} MiB free of {machine.total_bytes // _MIB}",
                hint="free some (nvidia-smi names the processes), or choose a lower precision",
            )

    def wait(self) -> None:
        """Wait until everything given to the stream is done."""
        self.driver.call("cuStreamSynchronize", c_void_p(self.stream))

    def _attribute(self, which: int) -> int:
        value = c_int()
        self.driver.call("cuDeviceGetAttribute", byref(value), which, self._device)
        return value.value

    def close(self) -> None:
        """Give the stream and the device back."""
        with self.current():
            self.driver.call("cuStreamDestroy_v2", c_void_p(self.stream))
        self.driver.call("cuDevicePrimaryCtxRelease_v2", self._device)


class Staged:
    """An array on the GPU and its page-locked twin on the host, which copies fastest.

    Args:
        gpu: Where.
        shape: Largest shape; a prefix of the bytes serves every smaller one.

    Attributes:
        pointer: Address on the GPU.
    """

    def __init__(self, gpu: Gpu, shape: tuple[int, ...]) -> None:
        self._gpu = gpu
        self._size = math.prod(shape)
        pointer, host = c_uint64(), c_void_p()
        with gpu.current():
            gpu.driver.call("cuMemAlloc_v2", byref(pointer), c_size_t(4 * self._size))
            gpu.driver.call("cuMemHostAlloc", byref(host), c_size_t(4 * self._size), 0)
        self.pointer = int(pointer.value)
        self._host = host
        flat = (ctypes.c_float * self._size).from_address(host.value or 0)
        self._values: NDArray[np.float32] = np.ctypeslib.as_array(flat)

    def host(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the twin as an array of a shape: the memory itself, no copy."""
        return self._values[: math.prod(shape)].reshape(shape)

    def up(self, shape: tuple[int, ...]) -> None:
        """Copy the twin to the GPU, in the stream's turn."""
        self._copy("cuMemcpyHtoDAsync_v2", c_uint64(self.pointer), self._host, shape)

    def down(self, shape: tuple[int, ...]) -> None:
        """Copy the GPU's array to its twin, in the stream's turn; it is there after `wait`."""
        self._copy("cuMemcpyDtoHAsync_v2", self._host, c_uint64(self.pointer), shape)

    def _copy(self, name: str, target: Any, source: Any, shape: tuple[int, ...]) -> None:
        size = c_size_t(4 * math.prod(shape))
        self._gpu.driver.call(name, target, source, size, c_void_p(self._gpu.stream))

    def close(self) -> None:
        """Give both back."""
        with self._gpu.current():
            self._gpu.driver.call("cuMemFree_v2", c_uint64(self.pointer))
            self._gpu.driver.call("cuMemFreeHost", self._host)


class Graph:
    """Work of one shape, recorded once and launched in one call.

    Args:
        gpu: Where; what `record` gives to its stream is recorded and not run.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._recorded = c_void_p()
        self._graph = c_void_p()

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record what the block gives to the stream."""
        call, stream = self._gpu.driver.call, c_void_p(self._gpu.stream)
        call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL_CAPTURE)
        try:
            yield
        finally:
            call("cuStreamEndCapture", stream, byref(self._recorded))
        call("cuGraphInstantiateWithFlags", byref(self._graph), self._recorded, c_uint64(0))

    def launch(self) -> None:
        """Run it in the stream's turn."""
        self._gpu.driver.call("cuGraphLaunch", self._graph, c_void_p(self._gpu.stream))

    def close(self) -> None:
        """Give it back."""
        self._gpu.driver.call("cuGraphExecDestroy", self._graph)
        self._gpu.driver.call("cuGraphDestroy", self._recorded)
