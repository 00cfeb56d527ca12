"""Engines ahead of time: built on this machine for GPUs that are elsewhere.

A bundle that was exported to TensorRT holds typed graphs, and any device builds its engine of them
when it first needs it. TensorRT-RTX can do most of that beforehand, on a machine without a GPU:
such engines lie in the bundle's folder `engines`, one for each precision and compute capability,
each with the key that says what it was made of and for.

An engine is code. Those of a bundle are worth the trust that the bundle is: its manifest holds
their hashes, and nothing vouches for the manifest but where it came from.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.errors import BundleError, UsageError
from asa_engine.gpu.tensorrt_engines import (
    ANY_DRIVER,
    EngineKey,
    build,
    engine_name,
    load_library,
    model_sha256,
    write_engine,
)
from asa_engine.graders.acoustic.backends.tensorrt import TensorRTBackend, profile_of

__all__ = ["BuiltEngine", "build_engines", "parse_capability"]

_CAPABILITY = re.compile(r"(?:sm_?)?(\d{1,2})\.?(\d)")


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine that was built.

    Attributes:
        path: Where it lies.
        precision: Of its graph.
        compute_capability: Of the GPUs it is for.
        bytes: Its size.
        seconds: What building it took.
    """

    path: Path
    precision: str
    compute_capability: str
    bytes: int
    seconds: float


def parse_capability(text: str) -> str:
    """Return a compute capability, such as "8.9", from the ways people write it.

    Raises:
        UsageError: It is none.
    """
    match = _CAPABILITY.fullmatch(text.strip().lower())
    if match is None:
        raise UsageError(f"{text!r} is no compute capability", hint="write it as 8.9, 89 or sm_89")
    return f"{int(match[1])}.{match[2]}"


def build_engines(
    bundle: Bundle, compute_capabilities: Sequence[str], folder: Path | None = None
) -> list[BuiltEngine]:
    """Build an engine of every TensorRT graph of a bundle, for each compute capability.

    Args:
        bundle: Exported to TensorRT.
        compute_capabilities: Such as "8.9".
        folder: Where to put them; by default the bundle's own, whose manifest must then be
            written anew.

    Raises:
        BackendError: The library is missing, or cannot build for such a GPU.
        BundleError: The bundle has no graph for TensorRT.
    """
    graphs = bundle.stages.get("grader", {}).get(TensorRTBackend.name, {})
    if not graphs:
        raise BundleError(
            f"{bundle.name} has no graphs for TensorRT",
            hint="export it again with --target tensorrt",
        )
    library = load_library()
    profile = profile_of(bundle)
    built = []
    for precision, name in graphs.items():
        graph = bundle.path / name
        model = model_sha256(graph, bundle.path / WEIGHTS_NAME, profile)
        for capability in compute_capabilities:
            start = time.perf_counter()
            engine = build(library, graph, profile, [capability])
            seconds = time.perf_counter() - start
            path = (folder or bundle.path) / engine_name(precision, capability)
            key = EngineKey(library.name, library.version, capability, ANY_DRIVER, model)
            write_engine(path, engine, key)
            built.append(BuiltEngine(path, precision, capability, len(engine), seconds))
    return built
