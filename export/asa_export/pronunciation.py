"""Export of the pronunciation grader: one file of weights for the kernels, as it was trained.

The decoder's matrices are stored in 8 bits already and the kernels pack what they read, so nothing
is converted: an export is the checkpoint, compared in score points on each precision.
"""

from __future__ import annotations

import shutil
from typing import Final

from asa_engine.bundle import CONFIG_NAME, WEIGHTS_NAME, Bundle, Stages
from asa_engine.errors import CheckpointError
from asa_engine.graders.pronunciation.config import PronunciationConfig
from asa_engine.graders.pronunciation.model import TorchStages
from asa_engine.graders.pronunciation.stages import NEEDED
from asa_engine.recogniser.vocabulary import VOCABULARY_NAMES
from asa_export.exporter import Exporter, Job
from asa_export.parity import REFERENCE

__all__ = ["EXPORTER"]

REPORT: Final = "training.json"


def _validate(opened: Bundle) -> PronunciationConfig:
    """Check that the source holds a whole, finite grader."""
    stages = TorchStages.load(opened.path)
    if missing := [name for name in NEEDED if name not in stages.tensors]:
        raise CheckpointError(
            f"{opened.path / WEIGHTS_NAME} lacks {', '.join(missing[:3])}",
            hint="train the grader again",
        )
    return PronunciationConfig.from_dict(opened.config)


def _build(job: Job[PronunciationConfig]) -> Stages:
    """Copy the checkpoint; return the stages that it serves."""
    opened, work, variants = job.opened, job.work, job.variants
    for name in (CONFIG_NAME, WEIGHTS_NAME, REPORT, *VOCABULARY_NAMES):
        if (opened.path / name).is_file():
            shutil.copyfile(opened.path / name, work / name)
    stages: Stages = {"grader": {REFERENCE[0]: {REFERENCE[1]: WEIGHTS_NAME}}}
    for backend, precision in variants:
        stages["grader"].setdefault(backend, {})[precision] = WEIGHTS_NAME
    return stages


EXPORTER = Exporter(
    targets={"native": ("native", ("fp32", "int8"))},
    validate=_validate,
    build=_build,
    timed="8 s of speech, without a text",
)
