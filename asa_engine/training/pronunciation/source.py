"""The Whisper that a recipe names, as the grader will hold it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.errors import CheckpointError
from asa_engine.files import atomic_write
from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.pronunciation.config import PronunciationConfig
from asa_engine.graders.pronunciation.stages import NativeStages, eight_bits
from asa_engine.nn.ct2 import ct2_decoder_config, read_ct2_decoder
from asa_engine.nn.weights import PACKAGE, load_whisper_encoder, package_folder
from asa_engine.recogniser.vocabulary import VOCABULARY_NAMES, Vocabulary
from asa_engine.recogniser.whisper import Settings
from asa_engine.training.pronunciation.readings import ASPECTS
from asa_engine.training.pronunciation.recipe import PronunciationRecipe

__all__ = ["Source", "open_source"]

_WEIGHTS = "source.safetensors"


@dataclass(frozen=True)
class Source:
    """A Whisper ready to listen.

    Attributes:
        config: The grader's configuration, nothing learnt yet.
        stages: Encoder and decoder as they ship: weights as the checkpoint stores them, int8.
        tensors: Those weights, by the checkpoint's names.
        vocabulary: The file of the decoder's tokens.
    """

    config: PronunciationConfig
    stages: NativeStages
    tensors: dict[str, NDArray[np.generic]]
    vocabulary: Path


def open_source(recipe: PronunciationRecipe, work: Path) -> Source:
    """Open the Whisper of a recipe.

    Args:
        recipe: Names it.
        work: Folder of the run, where its weights are written as they will ship.

    Raises:
        CheckpointError: Nothing readable is there, or it is no Whisper in CTranslate2's layout.
    """
    named = recipe.model.source
    if named.startswith(PACKAGE):
        folder = package_folder(named.removeprefix(PACKAGE))
    else:
        folder = Path(named) if Path(named).is_absolute() else recipe.folder / named
    path = folder / "model.bin"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no model.bin",
            hint="convert the Whisper model with ct2-transformers-converter --quantization float16",
        )
    window_frames = round(recipe.model.window_s * 50)
    encoder = load_whisper_encoder(folder, window_frames)
    decoder, heads = read_ct2_decoder(path)
    shape = ct2_decoder_config(decoder, heads)
    config = PronunciationConfig.from_dict(
        PronunciationConfig(
            aspects=tuple(AspectConfig(name) for name in ASPECTS),
            encoder=encoder.config,
            decoder=shape,
            alignment_heads=Settings.read(folder, shape).alignment_heads,
            window_s=recipe.model.window_s,
            heads=recipe.judge.heads,
        ).to_dict()
    )
    used = {name: value for name, value in decoder.items() if value.ndim}
    state = {name: value.numpy() for name, value in encoder.state_dict().items()}
    stored = eight_bits(state, "encoder.") | eight_bits(used, "decoder.")
    held = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in stored.items()}
    atomic_write(work / _WEIGHTS, save(held))
    vocabulary = next(folder / name for name in VOCABULARY_NAMES if (folder / name).is_file())
    stages = NativeStages(
        config,
        Tensors(work / _WEIGHTS),
        Vocabulary.read(folder),
        precision="int8",
        threads=recipe.threads,
    )
    return Source(config, stages, stored, vocabulary)
