"""What a training run needs to go on after a kill: written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from asa_engine.errors import CheckpointError
from asa_engine.files import atomic_folder, read_json

__all__ = [
    "Progress",
    "copy_weights",
    "load_modules",
    "load_moments",
    "load_progress",
    "save_state",
]

PROGRESS_NAME = "progress.json"
TENSORS_NAME = "state.safetensors"


@dataclass
class Progress:
    """Where a run stands. No generator state is in it: chance is a function of seed and step.

    Attributes:
        digest: SHA-256 of the recipe.
        phase: Index of the phase.
        step: Steps done in it.
        best: Best dev figure in it, or None before the first.
        stale: Epochs since then.
        losses: Sums of each loss over the steps of the current epoch.
        history: One entry an epoch.
    """

    digest: str
    phase: int = 0
    step: int = 0
    best: float | None = None
    stale: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def save_state(
    folder: Path,
    progress: Progress,
    modules: Mapping[str, nn.Module],
    optimizer: Optimizer,
    names: Mapping[Tensor, str],
) -> None:
    """Write the state as a new sub-folder of `folder`, then drop the older ones.

    A kill at any moment leaves the older state or the newer one.

    Args:
        folder: Work folder of the run.
        progress: Where the run stands.
        modules: Modules by role (`model`, `average`, `best`).
        optimizer: Its moments are kept.
        names: Parameter -> name, for the optimiser's moments.

    Raises:
        UsageError: The disk is full or cannot be written; the older state stays.
    """
    tensors = {
        f"{role}/{name}": value.contiguous()
        for role, module in modules.items()
        for name, value in module.state_dict().items()
    }
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            tensors[f"optimizer/{key}/{names[parameter]}"] = value.contiguous()
    target = folder / f"state-{progress.phase:03d}-{progress.step:08d}"
    with atomic_folder(target, overwrite=True) as work:
        (work / TENSORS_NAME).write_bytes(save(tensors))
        (work / PROGRESS_NAME).write_text(json.dumps(asdict(progress)), encoding="utf-8")
    for older in folder.glob("state-*"):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)


def load_progress(folder: Path, digest: str) -> tuple[Progress, Path] | None:
    """Return the newest whole state of a run of this very recipe, or None if there is none.

    Raises:
        CheckpointError: The state is of another recipe, or damaged.
    """
    folders = sorted(folder.glob("state-*"))
    if not folders:
        return None
    value = read_json(folders[-1] / PROGRESS_NAME, CheckpointError)
    try:
        progress = Progress(**value)
    except TypeError:
        raise CheckpointError(
            f"{folders[-1]} is not a training state", hint="start anew with --fresh"
        ) from None
    if progress.digest != digest:
        raise CheckpointError(
            f"{folder} holds a run of another recipe, or of this one before it was changed",
            hint="start anew with --fresh, or choose another output folder",
        )
    return progress, folders[-1]


def load_modules(state: Path, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Restore modules in place; return the optimiser's moments for `load_moments`.

    Raises:
        CheckpointError: The file is damaged or does not fit.
    """
    try:
        tensors = load_file(state / TENSORS_NAME)
        for role, module in modules.items():
            prefix = f"{role}/"
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{state} cannot be restored: {error}", hint="start anew with --fresh"
        ) from None
    return {
        key.removeprefix("optimizer/"): value
        for key, value in tensors.items()
        if key.startswith("optimizer/")
    }


def load_moments(
    moments: Mapping[str, Tensor], optimizer: Optimizer, names: Mapping[Tensor, str]
) -> None:
    """Restore the optimiser's moments (`<moment>/<parameter name>`) in place."""
    by_name = {name: parameter for parameter, name in names.items()}
    for key, value in moments.items():
        moment, _, name = key.partition("/")
        optimizer.state[by_name[name]][moment] = value


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy every weight of one module into another of the same shape."""
    with torch.no_grad():
        for to, value in zip(target.parameters(), source.parameters(), strict=True):
            to.copy_(value)
