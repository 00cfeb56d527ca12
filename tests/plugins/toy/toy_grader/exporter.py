"""Exports it: the checkpoint is what runs."""

from __future__ import annotations

import shutil

from asa_export.exporter import Exporter
from toy_grader.runtime import ToyConfig


def _build(job):
    for name in ("config.json", "weights.safetensors"):
        shutil.copyfile(job.opened.path / name, job.work / name)
    return {"grader": {backend: {p: "weights.safetensors"} for backend, p in job.variants}}


EXPORTER = Exporter(
    targets={"native": ("native", ("fp32",))},
    validate=lambda bundle: ToyConfig.from_dict(bundle.config),
    build=_build,
)
