"""How a grader's checkpoint is written and read: configuration, weights, texts beside them."""

from __future__ import annotations

import json
import math
import shutil
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from asa_engine.bundle import CONFIG_NAME, WEIGHTS_NAME
from asa_engine.errors import CheckpointError
from asa_engine.files import atomic_folder

__all__ = ["CONFIG_NAME", "WEIGHTS_NAME", "Saved", "read_weights", "write_checkpoint"]

_HINT = "weights and config.json are not of one checkpoint, or the file is damaged"


class Configuration(Protocol):
    """What a checkpoint's `config.json` is written from."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""


class Saved(nn.Module):
    """A grader that is written as `config.json` and `weights.safetensors`.

    Attributes:
        config: Its configuration.
    """

    config: Configuration

    @abstractmethod
    def stored(self) -> Mapping[str, Tensor]:
        """Return the tensors as they are stored, by name."""

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        extra: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Write the configuration and what `stored` gives.

        Args:
            folder: Where to.
            overwrite: Replace what is there.
            extra: Further text files of the checkpoint, name -> text.

        Raises:
            UsageError: The folder is there already, or cannot be written; nothing is changed.
        """
        stored = self.stored()
        write_checkpoint(folder, self.config.to_dict(), stored, overwrite=overwrite, extra=extra)


def write_checkpoint(
    folder: str | Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    overwrite: bool = False,
    extra: Mapping[str, str] = MappingProxyType({}),
    files: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Write `config.json`, `weights.safetensors` and what stands beside them, whole or not at all.

    Args:
        folder: Where to.
        config: The configuration, JSON values.
        weights: Tensors as they are to be stored.
        overwrite: Replace what is there.
        extra: Further text files of the checkpoint, name -> text.
        files: Files to copy into it, name -> source.

    Raises:
        UsageError: The folder is there already, or cannot be written; nothing is changed.
    """
    state = {name: value.detach().contiguous() for name, value in weights.items()}
    with atomic_folder(Path(folder), overwrite=overwrite) as work:
        (work / CONFIG_NAME).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (work / WEIGHTS_NAME).write_bytes(save(state, {"format": "pt"}))
        for name, source in files.items():
            shutil.copyfile(source, work / name)
        for name, content in extra.items():
            (work / name).write_text(content, encoding="utf-8")


def read_weights(path: Path, wanted: Mapping[str, Any], *, hint: str = _HINT) -> dict[str, Tensor]:
    """Read weights as float32.

    Args:
        path: The safetensors file.
        wanted: Tensors, or what has a shape, of the very names and shapes that it must hold.
        hint: What to do where they do not fit.

    Raises:
        CheckpointError: It is missing, damaged, or names, shapes or values do not fit.
    """
    try:
        # Copies, because a tensor's place in a file is not aligned, and the alignment of a matrix
        # can change the last bit of a product.
        state = {k: v.to(torch.float32, copy=True) for k, v in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}", hint="train or fetch the checkpoint again"
        ) from None
    for what, names in (("lacks", wanted.keys() - state), ("has unknown", state.keys() - wanted)):
        if names:
            raise CheckpointError(f"{path} {what} {', '.join(sorted(names)[:3])}", hint=hint)
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise CheckpointError(
                f"{path}: {name} is {list(value.shape)}, not {list(wanted[name].shape)}", hint=hint
            )
        if not math.isfinite(float(value.sum())):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity", hint=hint)
    return state
