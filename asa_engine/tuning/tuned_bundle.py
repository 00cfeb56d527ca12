"""Bundles as they are after tuning: another order, the table, the plan of native/mixed."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from asa_engine.bundle import MANIFEST_NAME, Bundle, Stages, write_manifest
from asa_engine.errors import BundleError
from asa_engine.files import atomic_folder
from asa_engine.graders import MIXED, grader_entry
from asa_engine.selection import TUNING_NAME
from asa_engine.tuning.layer_search import LayerSearch

if TYPE_CHECKING:
    from asa_engine.tuning.tune import Tuning

__all__ = ["write_mixed", "write_tuned"]

_PLAN_NAME = "native.mixed.json"


def write_tuned(bundle: Bundle, tuning: Tuning, target: Path, *, overwrite: bool = False) -> None:
    """Write a bundle whose `auto` order is the tuned one, with the table as `tuning.json`.

    An engine of it runs the first of that order at the thread count that was fastest. Where that
    is the native backend, its weights are in the bundle as this CPU's kernels read them, too.

    Args:
        bundle: The bundle that was tuned.
        tuning: What `tune` returned.
        target: The folder to make; may be the bundle's own with `overwrite`.
        overwrite: Whether to replace what stands there.

    Raises:
        DriftError: No variant is within the budget.
        BundleError: It is a bare checkpoint, or not the bundle that was tuned.
        UsageError: `target` is there already, or cannot be written.
    """
    tuning.check()
    if not (bundle.path / MANIFEST_NAME).is_file():
        raise BundleError(
            f"{bundle.path} is a checkpoint, not a bundle", hint="run 'asa-engine export' on it"
        )
    if bundle.sha256 != tuning.bundle_sha256:
        raise BundleError(f"{bundle.path} has changed since it was tuned", hint="tune it again")
    with atomic_folder(target, overwrite=overwrite) as work:
        _copy_artifacts(bundle, work)
        table = json.dumps(tuning.to_dict(), indent=1) + "\n"
        (work / TUNING_NAME).write_text(table, encoding="utf-8")
        write = partial(
            write_manifest,
            work,
            name=bundle.name,
            version=bundle.version,
            grader=bundle.grader,
            stages=_stages(bundle, tuning.layers, work),
            auto=tuning.order,
            parity=bundle.parity,
        )
        write()
        backend, precision = tuning.order[0]
        mixed = grader_entry(bundle.grader).mixed
        if backend == "native" and mixed is not None and mixed.layers(bundle):
            mixed.pack(Bundle.open(work), precision, work)
            write()


def _copy_artifacts(bundle: Bundle, folder: Path) -> None:
    """Copy what does not come from an earlier tuning."""
    mixed = grader_entry(bundle.grader).mixed
    for name in bundle.artifacts:
        packed = mixed is not None and name.startswith(f"{mixed.packed}/")
        if name != _PLAN_NAME and not packed:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, folder / name)


def _stages(bundle: Bundle, layers: LayerSearch | None, folder: Path) -> Stages:
    """Return the bundle's stages, with native/mixed if precisions were found: writes its plan."""
    stages = {
        stage: {
            backend: {p: name for p, name in files.items() if p != MIXED}
            for backend, files in by.items()
        }
        for stage, by in bundle.stages.items()
    }
    if layers is not None and layers.layers:
        plan = json.dumps({"layers": layers.layers}) + "\n"
        (folder / _PLAN_NAME).write_text(plan, encoding="utf-8")
        stages["grader"]["native"][MIXED] = _PLAN_NAME
    return stages


def write_mixed(bundle: Bundle, layers: LayerSearch, folder: Path) -> Bundle:
    """Write a bundle that holds native/mixed, for as long as it is tried."""
    folder.mkdir()
    _copy_artifacts(bundle, folder)
    stages = _stages(bundle, layers, folder)
    write_manifest(
        folder,
        name=bundle.name,
        version=bundle.version,
        grader=bundle.grader,
        stages=stages,
        auto=(("native", MIXED),),
        parity={},
    )
    return Bundle.open(folder)
