"""Score learners' spoken English on the device at hand, while they speak.

import asa_engine as asa

engine = asa.load()
result = engine.assess("answer.flac")
print(result.scores["fluency"].value)
result = engine.assess("answer.flac", text="We call it bear.")  # every word, every sound
"""

from __future__ import annotations

import importlib
import os
import sys

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

TYPE_CHECKING = False  # as typing's, which a command line that is interrupted would wait for
if TYPE_CHECKING:
    from typing import Any

    from asa_engine.assessment import Assessment, PartResult, Prior, Score, Timing
    from asa_engine.audio.validity import Validity
    from asa_engine.engine import Embedding, Engine, load
    from asa_engine.stream import Stream

    __version__: str

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

# No dependency reports to its makers; said before any of them is imported (docs/privacy.md).
for _switch in (
    "ORT_DISABLE_TELEMETRY",  # ONNX Runtime 1.29 and later
    "HF_HUB_DISABLE_TELEMETRY",  # huggingface_hub, for transformers, tokenizers and accelerate
    "HF_HUB_DISABLE_UPDATE_CHECK",
    "DISABLE_SAFETENSORS_CONVERSION",  # transformers would ask a server to convert a hub's model
    "DO_NOT_TRACK",  # whoever honours it
):
    os.environ[_switch] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would tell of the cluster once an hour
if "onnxruntime" in sys.modules:  # too late for the switch
    sys.modules["onnxruntime"].disable_telemetry_events()

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
    "Validity": "audio.validity",
    "load": "engine",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("asa-engine")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
