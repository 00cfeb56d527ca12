"""Checkpoints of graders with a language model: what was trained, and the backbones below it."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from asa_engine.backbones import BACKBONES, backbone_folder
from asa_engine.errors import CheckpointError
from asa_engine.files import atomic_folder
from asa_engine.graders.speech_llm.config import LoraConfig, SpeechLLMConfig
from asa_engine.graders.speech_llm.prompt import check_labels
from asa_engine.nn.audio_language_model import AudioEncoder, load_backbones
from asa_engine.nn.config import LanguageModelConfig, WhisperEncoderConfig
from asa_engine.nn.language_model import LanguageModel, load_tokenizer
from asa_engine.nn.lora import add_lora
from asa_engine.nn.whisper import WhisperEncoder

__all__ = [
    "CONFIG_NAME",
    "WEIGHTS_NAME",
    "Backbones",
    "Checkpointed",
    "add_adapters",
    "backbone_source",
    "check_backbones",
    "open_backbones",
    "read_tuned",
    "round_halves",
    "write_checkpoint",
]

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "weights.safetensors"


class Backbones(NamedTuple):
    """What a checkpoint stands on."""

    encoder: WhisperEncoder | AudioEncoder
    language_model: LanguageModel
    tokenizer: Any


def open_backbones(
    config: SpeechLLMConfig,
    encoder: str | Path | None = None,
    language_model: str | Path | None = None,
) -> Backbones:
    """Read a checkpoint's backbones, and check its prompt against their tokenizer.

    Args:
        config: Names them.
        encoder: Folder of a Whisper, or folder or hub name of an audio language model, in place
            of the one named.
        language_model: Folder or hub name, in place of the one named.

    Raises:
        CheckpointError: One cannot be read, or the prompt's tokens are others here.
    """
    encoder = encoder or _backbone(config, "encoder")
    language_model = language_model or _backbone(config, "language_model")
    tokenizer = load_tokenizer(language_model)
    check_labels(config.prompt, tokenizer)
    return Backbones(
        *load_backbones(encoder, language_model, config.encoder.positions),
        tokenizer,
    )


class Configuration(Protocol):
    """What a checkpoint's `config.json` is written from."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""


class Checkpointed(nn.Module):
    """A grader whose checkpoint holds what was trained, and only names what it stands on.

    Attributes:
        config: Its configuration.
    """

    config: Configuration

    @abstractmethod
    def tuned(self) -> Mapping[str, Tensor]:
        """Return what training makes, by name."""

    def round_halves(self) -> None:
        """Round what is stored as float16 to float16 values; figures come after it."""
        round_halves(self.tuned())

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        extra: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Write `config.json` and `weights.safetensors`: what was trained, not the backbones.

        Args:
            folder: Where to.
            overwrite: Replace what is there.
            extra: Further text files of the checkpoint, name -> text.

        Raises:
            UsageError: The folder is there already, or cannot be written; nothing is changed.
        """
        write_checkpoint(folder, self.config.to_dict(), self.tuned(), overwrite, extra)


class Shapes(Protocol):
    """What a configuration says of the backbones."""

    @property
    def encoder(self) -> WhisperEncoderConfig:
        """Shape of the encoder."""

    @property
    def language_model(self) -> LanguageModelConfig:
        """Shape of the language model."""

    @property
    def backbones(self) -> Mapping[str, str]:
        """Stage -> name."""


def check_backbones(
    config: Shapes, encoder: WhisperEncoder | AudioEncoder, language_model: LanguageModel
) -> None:
    """Check that backbones are those that a configuration was made for.

    Raises:
        CheckpointError: One is of another shape.
    """
    for name, wanted, found in (
        ("encoder", config.encoder, encoder.config),
        ("language_model", config.language_model, language_model.config),
    ):
        if wanted != found:
            raise CheckpointError(
                f"the checkpoint wants a backbone of {wanted}, this {name} is {found}",
                mend=f"fetch the backbone {config.backbones.get(name)!r} again",
            )


def add_adapters(language_model: LanguageModel, lora: LoraConfig) -> None:
    """Add a language model's adapters, in place.

    Raises:
        CheckpointError: It has no such layers.
    """
    layers = language_model.decoder.layers[lora.first_layer :]
    try:
        add_lora(layers, lora.targets, lora.rank, lora.alpha)
    except ValueError as error:
        raise CheckpointError(f"the adapter does not fit the language model: {error}") from None


def read_tuned(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read trained weights as float32.

    Args:
        path: The safetensors file.
        wanted: Tensors of the very names and shapes that it must hold.

    Raises:
        CheckpointError: It is missing, damaged, or names, shapes or values do not fit.
    """
    try:
        found = {k: v.to(torch.float32, copy=True) for k, v in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}", mend="train or fetch the checkpoint again"
        ) from None
    _check_state(path, wanted, found)
    return found


def _is_half(name: str, value: Tensor) -> bool:
    return value.ndim > 1 and "head." not in name


def _backbone(config: SpeechLLMConfig, stage: str) -> str | Path:
    if stage not in config.backbones:
        raise CheckpointError(
            f"the checkpoint names no backbone for its {stage}", mend="pass its folder"
        )
    return backbone_source(config.backbones[stage])


def backbone_source(name: str) -> str | Path:
    """Return where a backbone is read from: a registered one's folder, or the name itself.

    Any other name is a folder, or for a language model a name on the hub.

    Raises:
        CheckpointError: A registered backbone was not fetched, or is not the known one.
    """
    return backbone_folder(name) if name in BACKBONES else name


def _check_state(path: Path, wanted: Mapping[str, Any], found: Mapping[str, Tensor]) -> None:
    mend = "the weights are of another backbone or configuration, or the file is damaged"
    for what, names in (("lacks", wanted.keys() - found), ("has unknown", found.keys() - wanted)):
        if names:
            raise CheckpointError(f"{path} {what} {', '.join(sorted(names)[:3])}", mend=mend)
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise CheckpointError(
                f"{path}: {name} is {list(value.shape)}, not {list(wanted[name].shape)}", mend=mend
            )
        if not math.isfinite(float(value.sum())):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity", mend=mend)


def round_halves(tuned: Mapping[str, Tensor]) -> None:
    """Round what is stored as float16 to float16 values, in place."""
    with torch.no_grad():
        for name, value in tuned.items():
            if _is_half(name, value):
                value.copy_(value.half().float())


def write_checkpoint(
    folder: str | Path,
    config: Mapping[str, Any],
    tuned: Mapping[str, Tensor],
    overwrite: bool,
    extra: Mapping[str, str],
) -> None:
    """Write `config.json` and `weights.safetensors`, whole or not at all.

    Matrices are stored as float16, those of a head and vectors as float32.

    Args:
        folder: Where to.
        config: JSON object.
        tuned: What was trained.
        overwrite: Replace what is there.
        extra: Further text files of the checkpoint, name -> text.

    Raises:
        UsageError: The folder is there already, or cannot be written; nothing is changed.
    """
    state = {
        name: (value.half() if _is_half(name, value) else value.float()).detach().contiguous()
        for name, value in tuned.items()
    }
    with atomic_folder(Path(folder), overwrite=overwrite) as work:
        text = json.dumps(config, indent=1) + "\n"
        (work / CONFIG_NAME).write_text(text, encoding="utf-8")
        (work / WEIGHTS_NAME).write_bytes(save(state, {"format": "pt"}))
        for name, content in extra.items():
            (work / name).write_text(content, encoding="utf-8")
