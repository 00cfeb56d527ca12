"""Encoder and decoder in PyTorch: what exports are compared with.

The small parts are NumPy's everywhere (`judge`), so they need no second form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.bundle import WEIGHTS_NAME
from asa_engine.graders.pronunciation.config import PronunciationConfig
from asa_engine.graders.pronunciation.measures import Array
from asa_engine.graders.pronunciation.stages import (
    Encoded,
    NetworkReader,
    SmallTensors,
    Written,
    network_names,
    silence_of,
)
from asa_engine.nn.hugging_face import build_decoder
from asa_engine.nn.weights import build_encoder
from asa_engine.nn.whisper import WhisperEncoder
from asa_engine.recogniser.vocabulary import Vocabulary

__all__ = ["TorchStages"]


class TorchStages:
    """Encoder and decoder in PyTorch, float32.

    Args:
        config: The grader's configuration.
        encoder: The encoder.
        decoder: The decoder's tensors by CTranslate2's names.
        vocabulary: The decoder's tokens.
        tensors: Everything else.
    """

    def __init__(
        self,
        config: PronunciationConfig,
        encoder: WhisperEncoder,
        decoder: Mapping[str, NDArray[np.generic]],
        vocabulary: Vocabulary,
        tensors: Mapping[str, Array],
    ) -> None:
        self.tensors = tensors
        self.vocabulary = vocabulary
        self.encoder = encoder.eval()
        self._heads = config.flat_heads
        variables = {f"decoder/{name}": value for name, value in decoder.items()}
        self._decoder = build_decoder(config.decoder, variables, Path("decoder"))
        self._embeddings = self._decoder.embed_tokens.weight.detach()
        self._silence: Array | None = None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a checkpoint or bundle.

        Raises:
            CheckpointError: It is missing, damaged, or names, shapes or values do not fit.
        """
        config = PronunciationConfig.load(folder)
        file = Tensors(folder / WEIGHTS_NAME)
        read = NetworkReader(file, "encoder.")
        state = {
            name: torch.from_numpy(read(name, shape))
            for name, shape in network_names(file, "encoder.").items()
        }
        read = NetworkReader(file, "decoder.")
        decoder = {
            name: read(name, shape) for name, shape in network_names(file, "decoder.").items()
        }
        return cls(
            config,
            build_encoder(state, config.encoder.heads),
            decoder,
            Vocabulary.read(folder),
            dict(SmallTensors(file)),
        )

    @torch.inference_mode()
    def encode(self, mel: Array) -> Encoded:
        """Encode one window."""
        layers = torch.stack(self.encoder(torch.from_numpy(mel)[None]))[:, 0]
        moments = torch.cat((layers.sum(1).flatten(), layers.square().sum(1).flatten()))
        return Encoded(torch.cat((layers[-2], layers[-1]), 1).numpy(), moments.numpy())

    @torch.inference_mode()
    def write(self, frames: Array, tokens: Sequence[int]) -> Written:
        """Run all tokens at once."""
        vocabulary = self.vocabulary
        first = len(vocabulary.prompt) - 1
        found = self._decoder(
            input_ids=torch.tensor([[*vocabulary.prompt, *tokens]]),
            encoder_hidden_states=torch.from_numpy(np.ascontiguousarray(frames))[None],
            output_attentions=True,
            use_cache=False,
        )
        logits = (found.last_hidden_state[0, first:] @ self._embeddings.T).numpy()
        attended = torch.cat([one[0] for one in found.cross_attentions])[:, first:]
        rows: NDArray[np.float32] = attended.transpose(0, 1).numpy()
        return _written(logits, (*tokens, vocabulary.end), rows, self._heads)

    def write_quiet(self, tokens: Sequence[int]) -> Array:
        """Run the tokens over two seconds of silence."""
        if self._silence is None:
            self._silence = silence_of(self)
        return self.write(self._silence, tokens).own

    def versions(self) -> dict[str, str]:
        """Return the versions of PyTorch and transformers."""
        return {name: metadata.version(name) for name in ("torch", "transformers")}


def _written(
    logits: Array, targets: Sequence[int], attended: Array, heads: Sequence[int]
) -> Written:
    """Measure logits [N + 1, V] and attention [N + 1, layers * heads, T]."""
    top = logits.max(1, keepdims=True)
    shifted = logits - top
    share = np.exp(shifted)
    total = share.sum(1, keepdims=True)
    rows = np.arange(len(logits))
    target = np.asarray(targets)
    mine = shifted[rows, target]
    log_total = np.log(total[:, 0])
    entropy = log_total - (share * shifted).sum(1) / total[:, 0]
    rank = (shifted > mine[:, None]).sum(1)
    shifted[rows, target] = -np.inf
    other = shifted.argmax(1)
    return Written(
        mine - log_total,
        shifted[rows, other] - log_total,
        rank.astype(np.float32),
        entropy,
        other,
        attended[:, list(heads)].mean(1),
        -(attended * np.log(np.maximum(attended, 1e-9))).sum(2).mean(1),
        attended.max(2).mean(1),
    )
