"""TensorRT engines: built from a typed graph, kept, and refused where they do not belong.

An engine is code for one version of one library and for one kind of GPU. What it was made of and
for is its `EngineKey`; a cached engine whose key is not this machine's is stale and built anew, a
bundle's is foreign and left alone. Both say why.

TensorRT 10 and 11 build on the GPU that will run the engine. TensorRT-RTX builds on any machine,
for the compute capabilities it is told, and finishes the kernels when the engine is loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from asa_engine.errors import BackendError
from asa_engine.files import atomic_write, read_json, sha256_file

__all__ = [
    "ANY_DRIVER",
    "MAX_BATCH",
    "EngineCache",
    "EngineKey",
    "Library",
    "Profile",
    "build",
    "cache_folder",
    "engine_logger",
    "engine_name",
    "load_library",
    "model_sha256",
    "read_engine",
    "write_engine",
]

ANY_DRIVER: Final = "any"
"""The driver of an engine built ahead of time, which is finished on the GPU it meets."""
MAX_BATCH: Final = 64
"""Most windows of one launch."""
MAX_ENGINE_BYTES: Final = 16 * 2**30
_BUILD_REVISION: Final = 1
"""Raised when engines of the same graph would be built otherwise."""
_MODULES: Final = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_INSTALL: Final = "pip install 'asa-engine[tensorrt]', or [tensorrt-rtx] for GeForce and RTX GPUs"


@dataclass(frozen=True, slots=True)
class Library:
    """TensorRT or TensorRT-RTX, imported.

    Attributes:
        name: "tensorrt" or "tensorrt-rtx".
        module: The Python module; the two have one interface, as far as it is used here.
        version: Such as "11.4.0.106".
        cuda_major: Major version of CUDA that its package was made for; 0 if not known.
    """

    name: str
    module: Any
    version: str
    cuda_major: int = 0

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds without the GPU that the engine is for."""
        return hasattr(self.module, "ComputeCapability")


def load_library() -> Library:
    """Import TensorRT, or else TensorRT-RTX.

    Raises:
        BackendError: Neither is installed, or what is installed cannot be loaded.
    """
    for name, module in _MODULES.items():
        if find_spec(module) is None:
            continue
        try:
            library = importlib.import_module(module)
        except Exception as failure:  # it fails as it likes where its own libraries are missing
            raise BackendError(
                f"{name} is installed and cannot be loaded: {failure}", hint=_INSTALL
            ) from None
        return Library(name, library, str(library.__version__), _cuda_major(module))
    raise BackendError("neither tensorrt nor tensorrt-rtx is installed", hint=_INSTALL)


def _cuda_major(module: str) -> int:
    """Tell what CUDA a package was made for by the name of the one that holds its libraries."""
    for major in (13, 12):
        try:
            metadata.distribution(f"{module}_cu{major}")
        except metadata.PackageNotFoundError:
            continue
        return major
    return 0


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes that an engine is made for.

    Attributes:
        batch: Most windows at once.
        mels: Mel bins.
        mel_frames: Frames of a full window, 100 a second: the most, and what it is best at.
        stats: Width K of the pooled statistics.
    """

    batch: int
    mels: int
    mel_frames: int
    stats: int

    def ranges(self) -> list[dict[str, tuple[tuple[int, ...], ...]]]:
        """Return input -> (smallest, best, largest shape), for one window and for many."""
        sizes = [(1, 1, 1)]
        if self.batch > 1:
            sizes.append((1, max(1, self.batch // 2), self.batch))
        return [
            {
                "mel": (
                    (low, self.mels, 2),
                    (best, self.mels, self.mel_frames),
                    (high, self.mels, self.mel_frames),
                ),
                "sums": ((low, self.stats), (best, self.stats), (high, self.stats)),
            }
            for low, best, high in sizes
        ]


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine was made of and for. Two are the same engine where all of it agrees.

    Attributes:
        library: "tensorrt" or "tensorrt-rtx".
        version: The library's.
        compute_capability: Such as "8.9".
        driver: Newest CUDA of the driver it was built with, or `ANY_DRIVER`.
        model_sha256: What `model_sha256` says of graph, weights and profile.
    """

    library: str
    version: str
    compute_capability: str
    driver: str
    model_sha256: str

    def differs(self, wanted: EngineKey) -> str:
        """Say in what this engine is not the wanted one; "" where it is."""
        said = []
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(wanted, item.name)
            if mine == theirs or (item.name == "driver" and mine == ANY_DRIVER):
                continue
            name = item.name.replace("_", " ")
            if item.name == "model_sha256":
                said.append("it is of another model or other shapes")
            else:
                said.append(f"its {name} is {mine}, here it is {theirs}")
        return "; ".join(said)


def model_sha256(graph: Path, weights: Path, profile: Profile) -> str:
    """Return a hash of all that an engine is computed from."""
    parts = {
        "graph": sha256_file(graph),
        "weights": sha256_file(weights),
        "profile": asdict(profile),
        "build": _BUILD_REVISION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def build(
    library: Library,
    graph: Path,
    profile: Profile,
    compute_capabilities: Sequence[str] = (),
) -> bytes:
    """Build an engine of a typed graph.

    Args:
        library: TensorRT or TensorRT-RTX.
        graph: ONNX, its weights beside it.
        profile: The shapes.
        compute_capabilities: GPUs it is for, such as "8.9"; by default this machine's.

    Returns:
        The serialised engine.

    Raises:
        BackendError: The library cannot build it, and says why.
    """
    trt = library.module
    logger = engine_logger(trt)
    try:
        builder = trt.Builder(logger)
        if builder is None:
            raise RuntimeError("no builder")
        # TensorRT 11 has no other networks and ignores the flag.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(graph)):
            said = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise RuntimeError(f"it does not read the graph: {said}")
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32
        for shapes in profile.ranges():
            optimisation = builder.create_optimization_profile()
            for name, (low, best, high) in shapes.items():
                optimisation.set_shape(name, low, best, high)
            config.add_optimization_profile(optimisation)
        _aim(library, config, compute_capabilities)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise RuntimeError("it built nothing")
        return bytes(engine)
    except (RuntimeError, TypeError) as failure:
        said = "; ".join([str(failure), *logger.said[-2:]])
        hint = "a library for this GPU and driver is needed; run 'asa-engine doctor'"
        raise BackendError(
            f"{library.name} {library.version} cannot build {graph.name}: {said}", hint=hint
        ) from None


def _aim(library: Library, config: Any, compute_capabilities: Sequence[str]) -> None:
    """Name the GPUs an engine is for."""
    if not compute_capabilities:
        return
    if not library.ahead_of_time:
        raise BackendError(
            f"{library.name} builds only for the GPU at hand",
            hint="pip install tensorrt-rtx, which builds for others, or export on the device",
        )
    kinds = library.module.ComputeCapability
    config.num_compute_capabilities = len(compute_capabilities)
    for index, capability in enumerate(compute_capabilities):
        name = f"SM{capability.replace('.', '')}"
        if name not in kinds.__members__:
            have = ", ".join(sorted(kind for kind in kinds.__members__ if kind.startswith("SM")))
            raise BackendError(
                f"{library.name} {library.version} builds no engine for compute capability "
                f"{capability}",
                hint=f"it builds for {have}; on other GPUs TensorRT builds where it runs",
            )
        config.set_compute_capability(kinds.__members__[name], index)


def engine_logger(trt: Any) -> Any:
    """Return a logger that keeps what goes wrong and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.said.append(message)

    return Logger()


def engine_name(precision: str, compute_capability: str) -> str:
    """Return the file of an engine inside a bundle."""
    return f"engines/{precision}-sm{compute_capability.replace('.', '')}.engine"


def write_engine(path: Path, engine: bytes, key: EngineKey) -> None:
    """Write an engine and, beside it, its key and hash.

    Raises:
        UsageError: They cannot be written.
    """
    atomic_write(path, engine)
    described = {**asdict(key), "sha256": hashlib.sha256(engine).hexdigest(), "bytes": len(engine)}
    atomic_write(_key_path(path), json.dumps(described, indent=1).encode())


def read_engine(path: Path, wanted: EngineKey) -> tuple[bytes | None, str]:
    """Read an engine if it is the one that is wanted.

    Returns:
        The engine, and ""; or `None`, and why it is not used: in one line.
    """
    if not path.is_file() or not _key_path(path).is_file():
        return None, "there is none"
    try:
        described = read_json(_key_path(path), BackendError)
        key = EngineKey(**{item.name: str(described[item.name]) for item in fields(EngineKey)})
        if why := key.differs(wanted):
            return None, why
        if path.stat().st_size != described["bytes"] or path.stat().st_size > MAX_ENGINE_BYTES:
            return None, "it is cut off"
        engine = path.read_bytes()
        if hashlib.sha256(engine).hexdigest() != described["sha256"]:
            return None, "its hash differs: it is damaged"
    except (BackendError, KeyError, OSError) as failure:
        return None, f"it cannot be read: {failure}"
    return engine, ""


def _key_path(path: Path) -> Path:
    return path.with_suffix(".json")


def cache_folder() -> Path:
    """Return where engines are kept: `$ASA_ENGINES`, or below `~/.cache`."""
    chosen = os.environ.get("ASA_ENGINES")
    return Path(chosen) if chosen else Path.home() / ".cache" / "asa-engine" / "engines"


class EngineCache:
    """Engines built on this machine: one for each model, library and kind of GPU.

    Args:
        folder: Where they are kept.

    Raises:
        BackendError: Others may write there. An engine is code: it must come from oneself.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise BackendError(
                f"{folder} can be written by others, who could put code there",
                hint=f"chmod go-w {folder}, or set ASA_ENGINES to a folder of your own",
            )

    def path(self, key: EngineKey) -> Path:
        """Return where the engine of a key is kept; those it replaces have the same place."""
        capability = key.compute_capability.replace(".", "")
        name = f"{key.model_sha256[:16]}-{key.library}-sm{capability}.engine"
        return self._folder / name

    def obtain(
        self, key: EngineKey, library: Library, graph: Path, profile: Profile
    ) -> tuple[bytes, str]:
        """Return the engine of a key, built now if it must be.

        Returns:
            The engine, and how it came: one line for the receipt.

        Raises:
            BackendError: It cannot be built.
            UsageError: It cannot be kept.
        """
        engine, why = read_engine(self.path(key), key)
        if engine is not None:
            return engine, "kept from an earlier run"
        capabilities = (key.compute_capability,) if library.ahead_of_time else ()
        engine = build(library, graph, profile, capabilities)
        write_engine(self.path(key), engine, key)
        return engine, f"built now ({why})"
