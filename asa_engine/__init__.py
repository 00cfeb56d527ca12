"""Score learners' spoken English on the device at hand, while they speak.

import asa_engine as asa

engine = asa.load()
result = engine.assess("answer.flac")
print(result.scores["fluency"].value)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from asa_engine.errors import (
    ArtifactError,
    AsaError,
    AudioError,
    BackendError,
    BundleError,
    CheckpointError,
    DriftError,
    ManifestError,
    UsageError,
)

if TYPE_CHECKING:
    from asa_engine.assessment import Assessment, PartResult, Prior, Score, Timing
    from asa_engine.engine import Embedding, Engine, load
    from asa_engine.stream import Stream
    from asa_engine.validity import Validity

__all__ = [
    "ArtifactError",
    "AsaError",
    "Assessment",
    "AudioError",
    "BackendError",
    "BundleError",
    "CheckpointError",
    "DriftError",
    "Embedding",
    "Engine",
    "ManifestError",
    "PartResult",
    "Prior",
    "Score",
    "Stream",
    "Timing",
    "UsageError",
    "Validity",
    "load",
]

# Imported at first use: `asa-engine --help` and the training code need no decoder or kernels.
_LAZY = {
    "Assessment": "assessment",
    "Embedding": "engine",
    "Engine": "engine",
    "PartResult": "assessment",
    "Prior": "assessment",
    "Score": "assessment",
    "Stream": "stream",
    "Timing": "assessment",
    "Validity": "validity",
    "load": "engine",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
