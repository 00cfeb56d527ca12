"""Score learners' spoken English on the device at hand, while they speak.

    import asa_engine as asa

    engine = asa.load()
    result = engine.assess("answer.flac")
    print(result.scores["fluency"].value)
"""

from __future__ import annotations

from asa_engine.assessment import Assessment, PartResult, Prior, Score, Timing
from asa_engine.engine import Embedding, Engine, load
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
