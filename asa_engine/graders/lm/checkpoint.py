"""Checkpoints of graders with a language model: what was trained, and the backbones below it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from asa_engine.backbones import BACKBONES, backbone_folder
from asa_engine.backbones.hub import hub_folder, is_hub_name
from asa_engine.backbones.stored import INDEX_NAME, SINGLE_NAME, read_stored
from asa_engine.errors import CheckpointError
from asa_engine.graders.checkpoint import Saved, read_weights
from asa_engine.graders.lm.prompt import check_labels
from asa_engine.graders.lm.shapes import LoraConfig
from asa_engine.language_model.limits import memory_bytes
from asa_engine.nn.audio_language_model import AudioEncoder, load_backbones
from asa_engine.nn.config import LanguageModelConfig, WhisperEncoderConfig
from asa_engine.nn.language_model import LanguageModel, load_tokenizer
from asa_engine.nn.lora import add_lora
from asa_engine.nn.whisper import WhisperEncoder

if TYPE_CHECKING:
    from asa_engine.graders.speech_llm.config import SpeechLLMConfig

__all__ = [
    "Backbones",
    "Checkpointed",
    "add_adapters",
    "backbone_source",
    "check_backbones",
    "exceeds_memory",
    "open_backbones",
    "read_tuned",
    "round_halves",
]

_FLOAT_BYTES = 4
_HINT = "the weights are of another backbone or configuration, or the file is damaged"


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
    stored = exceeds_memory(language_model)
    return Backbones(
        *load_backbones(encoder, language_model, config.encoder.positions, stored=stored),
        tokenizer,
    )


def exceeds_memory(source: str | Path) -> bool:
    """Return whether a model's weights, as float32, take more than half of the memory there is.

    Its matrices are then left in their folder, and read whenever they are multiplied
    (`asa_engine.nn.stored_layers`).

    Args:
        source: Folder or hub name; a GGUF file is read whole whatever its size.

    Raises:
        CheckpointError: A shard is missing, damaged or of another model.
    """
    folder = hub_folder(str(source)) if is_hub_name(str(source)) else Path(source)
    if not any((folder / name).is_file() for name in (SINGLE_NAME, INDEX_NAME)):
        return False
    return 0 < memory_bytes() < 2 * _FLOAT_BYTES * read_stored(folder).parameters


class Checkpointed(Saved):
    """A grader whose checkpoint holds what was trained, and only names what it stands on."""

    @abstractmethod
    def tuned(self) -> Mapping[str, Tensor]:
        """Return what training makes, by name."""

    def round_halves(self) -> None:
        """Round what is stored as float16 to float16 values; figures come after it."""
        round_halves(self.tuned())

    def stored(self) -> Mapping[str, Tensor]:
        """Return what was trained, not the backbones.

        Matrices are stored as float16, those of a head and vectors as float32.
        """
        return {
            name: value.half() if _is_half(name, value) else value.float()
            for name, value in self.tuned().items()
        }


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
    for name, wanted, stated in (
        ("encoder", config.encoder, encoder.config),
        ("language_model", config.language_model, language_model.config),
    ):
        if wanted != stated and wanted != _without_long(stated):
            raise CheckpointError(
                f"the checkpoint wants a backbone of {wanted}, this {name} is {stated}",
                hint=f"fetch the backbone {config.backbones.get(name)!r} again",
            )


def _without_long(shape: WhisperEncoderConfig | LanguageModelConfig) -> object:
    """Return a shape as checkpoints state it that knew nothing of a second regime."""
    if not isinstance(shape, LanguageModelConfig):
        return shape
    return replace(shape, long_positions=0)


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
    return read_weights(path, wanted, hint=_HINT)


def _is_half(name: str, value: Tensor) -> bool:
    return value.ndim > 1 and "head." not in name


def _backbone(config: SpeechLLMConfig, stage: str) -> str | Path:
    if stage not in config.backbones:
        raise CheckpointError(
            f"the checkpoint names no backbone for its {stage}", hint="pass its folder"
        )
    return backbone_source(config.backbones[stage])


def backbone_source(name: str) -> str | Path:
    """Return where a backbone is read from: a registered one's folder, or the name itself.

    Any other name is a folder, or for a language model a name on the hub.

    Raises:
        CheckpointError: A registered backbone was not fetched, or is not the known one.
    """
    return backbone_folder(name) if name in BACKBONES else name


def round_halves(tuned: Mapping[str, Tensor]) -> None:
    """Round what is stored as float16 to float16 values, in place."""
    with torch.no_grad():
        for name, value in tuned.items():
            if _is_half(name, value):
                value.copy_(value.half().float())
