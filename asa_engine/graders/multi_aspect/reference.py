"""The frozen parts in PyTorch: training computes features with them; exports are held to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from asa_engine.backbones import model_folder
from asa_engine.errors import CheckpointError
from asa_engine.features.linguistic import open_analyser
from asa_engine.features.word_pieces import TOKENIZER_NAME, WordPieces, clean
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.graders.multi_aspect.features import WordFeatures
from asa_engine.graders.multi_aspect.model import Inputs, MultiAspectGrader
from asa_engine.nn.bert import load_bert
from asa_engine.nn.wav2vec2 import load_wav2vec2
from asa_engine.nn.weights import load_whisper_encoder

__all__ = ["Backbones", "TorchStages", "backbone_path"]


def backbone_path(config: MultiAspectConfig, stage: str) -> Path:
    """Return the folder of a stage's backbone: a registered one's, or one named by its path.

    Raises:
        CheckpointError: The configuration names none, or it is not here.
    """
    name = config.backbones.get(stage)
    if name is None:
        raise CheckpointError(
            f"config.json names no backbone for {stage}", hint="train the grader again"
        )
    return model_folder(name)


class Backbones:
    """Speech encoder, text encoder and analyser, frozen, in float32.

    Args:
        config: The grader's configuration.

    Raises:
        CheckpointError: A backbone is not here, or is of other widths than the configuration's.
        BackendError: The analyser's package or model is not installed.
    """

    def __init__(self, config: MultiAspectConfig) -> None:
        self._config = config
        self._waves = (
            load_wav2vec2(backbone_path(config, "speech_encoder")) if config.hears_waves else None
        )
        if self._waves is None:
            self._speech = load_whisper_encoder(backbone_path(config, "recogniser")).eval()
            frame_width = self._speech.config.d_model
        else:
            frame_width = self._waves.config.hidden_size
        text = backbone_path(config, "text_encoder")
        self._text = load_bert(text)
        self._pieces = WordPieces.open(text / TOKENIZER_NAME, config.max_pieces)
        self.analyser = open_analyser(config.analyser)
        for field, width in (
            ("frame_width", frame_width),
            ("prompt_width", self._text.config.hidden_size),
        ):
            if getattr(config, field) != width:
                raise CheckpointError(
                    f"{field} is {getattr(config, field)}; the backbone's is {width}",
                    hint="name the backbone that the grader was trained on",
                )

    @torch.inference_mode()
    def encode(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the frames of one window: of log-mel, or of samples for a wav2vec2."""
        layers: Sequence[torch.Tensor]
        if self._waves is None:
            layers = self._speech(torch.from_numpy(window)[None])
        else:
            layers = self._waves(torch.from_numpy(window)[None], output_hidden_states=True)[-1]
        mixed = torch.stack(list(layers)).mean(0) if self._config.mixed_layers else layers[-1]
        frames: NDArray[np.float32] = mixed[0].numpy()
        return frames

    @torch.inference_mode()
    def vector(self, text: str, pooling: str) -> NDArray[np.float32]:
        """Return a text's vector [prompt_width]: its first piece's, or the mean of all."""
        ids = torch.tensor([self._pieces.encode(clean(text)).ids])
        hidden = self._text(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        pooled: NDArray[np.float32] = (hidden[0] if pooling == "cls" else hidden.mean(0)).numpy()
        return pooled


class TorchStages(Backbones):
    """A checkpoint and its backbones, as the run-time stages are."""

    def __init__(self, folder: Path) -> None:
        self._grader = MultiAspectGrader.load(folder)
        super().__init__(self._grader.config)

    def prompt(self, text: str) -> tuple[NDArray[np.float32], bool]:
        """Return the prompt's vector, and whether pieces of it were left out."""
        is_cut = self._pieces.encode(clean(text)).is_cut
        return self.vector(text, self._config.prompt_pooling), is_cut

    @torch.inference_mode()
    def judge(
        self, frames: NDArray[np.float32], prompt: NDArray[np.float32], features: WordFeatures
    ) -> NDArray[np.float32]:
        """Return the probabilities of every aspect's classes, [A, C]."""
        inputs = Inputs(
            frames=torch.from_numpy(frames)[None],
            frame_counts=torch.tensor([len(frames)]),
            prompt=torch.from_numpy(prompt)[None],
            delivery=torch.from_numpy(features.delivery)[None],
            language=torch.from_numpy(features.language)[None],
            word_counts=torch.tensor([len(features.words)]),
        )
        shares: NDArray[np.float32] = self._grader(inputs)[0].softmax(-1).numpy()
        return shares
