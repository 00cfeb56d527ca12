"""Writing the checkpoint: what the grader, its exports and its reference read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from asa_engine.bundle import CONFIG_NAME, WEIGHTS_NAME
from asa_engine.files import atomic_folder
from asa_engine.graders.pronunciation.config import PronunciationConfig
from asa_engine.graders.pronunciation.measures import Array
from asa_engine.training.pronunciation.source import Source

__all__ = ["write_checkpoint"]

_HALF = ("kernel.centres", "pooled.directions", "frames.directions")
"""What is large and forgiving is stored as float16."""


def write_checkpoint(
    output: Path,
    config: PronunciationConfig,
    source: Source,
    learnt: Mapping[str, Array],
    files: Mapping[str, str],
) -> None:
    """Write configuration, weights, the decoder's tokens and further text files.

    Args:
        output: The folder.
        config: The grader's configuration.
        source: The Whisper it listens with.
        learnt: Everything else, by the judge's names.
        files: Name -> text.

    Raises:
        UsageError: The folder cannot be written; nothing is changed.
    """
    state = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in source.tensors.items()}
    for name, value in learnt.items():
        kind = np.float16 if name.endswith(_HALF) else np.float32
        state[name] = torch.from_numpy(np.ascontiguousarray(value, dtype=kind))
    with atomic_folder(output, overwrite=True) as work:
        text = json.dumps(config.to_dict(), indent=1) + "\n"
        (work / CONFIG_NAME).write_text(text, encoding="utf-8")
        (work / WEIGHTS_NAME).write_bytes(save(state, {"format": "pt"}))
        shutil.copyfile(source.vocabulary, work / source.vocabulary.name)
        for name, content in files.items():
            (work / name).write_text(content, encoding="utf-8")
