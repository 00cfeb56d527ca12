"""The text encoder at run time: word pieces in, the mean of BERT's outputs out; and the head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.errors import CheckpointError
from asa_engine.graders.text.config import TextConfig
from asa_engine.kernels.dense import matrix_vector
from asa_engine.runtimes.ctranslate2 import open_model
from asa_engine.runtimes.onnxruntime import session

if TYPE_CHECKING:
    from asa_engine.graders.text.model import TextGrader

__all__ = ["CTranslate2Encoder", "Head", "OnnxEncoder", "TextEncoder", "TorchEncoder"]


class TextEncoder(Protocol):
    """BERT on one backend at one precision."""

    def pool(self, ids: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the mean over a text's word pieces of BERT's last outputs, float32 [D]."""


class OnnxEncoder:
    """BERT in ONNX Runtime: `ids` int64 [1, T] -> `pooled` [1, D]."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = session(path, threads)

    def pool(self, ids: tuple[int, ...]) -> NDArray[np.float32]:
        """Run the graph, which ends in the mean."""
        row = np.array([ids], dtype=np.int64)
        pooled: NDArray[np.float32] = self._session.run(["pooled"], {"ids": row})[0][0]
        return pooled


class CTranslate2Encoder:
    """BERT in CTranslate2.

    Args:
        folder: CTranslate2's files, at the precision they are to run at.
        threads: Threads one text is encoded with.

    Raises:
        BackendError: The package is not installed, or cannot load the files.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self._encoder = open_model("Encoder", folder, threads)

    def pool(self, ids: tuple[int, ...]) -> NDArray[np.float32]:
        """Encode one text and take the mean of its pieces."""
        hidden: NDArray[np.float32] = np.array(
            self._encoder.forward_batch([list(ids)]).last_hidden_state
        )
        pooled: NDArray[np.float32] = hidden[0].mean(axis=0, dtype=np.float32)
        return pooled


class TorchEncoder:
    """The PyTorch reference."""

    def __init__(self, grader: TextGrader) -> None:
        self._grader = grader

    def pool(self, ids: tuple[int, ...]) -> NDArray[np.float32]:
        """Run Hugging Face's BERT and take the masked mean, as in training."""
        import torch

        from asa_engine.graders.text.model import masked_mean

        row = torch.tensor([ids])
        mask = torch.ones_like(row)
        with torch.inference_mode():
            hidden = self._grader.bert(input_ids=row, attention_mask=mask).last_hidden_state
            pooled: NDArray[np.float32] = masked_mean(hidden, mask)[0].numpy()
        return pooled


class Head:
    """The linear layer and what is made of its logits, in float64: it is 2,000 products.

    Args:
        weight: [C, D].
        bias: [C].
        class_scores: s_k [C].
    """

    def __init__(
        self,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        class_scores: tuple[float, ...],
    ) -> None:
        self._weight = weight.astype(np.float64)
        self._bias = bias.astype(np.float64)
        self._scores = np.array(class_scores)

    @classmethod
    def open(cls, weights: Path, config: TextConfig) -> Self:
        """Read the layer from a checkpoint's `weights.safetensors`.

        Raises:
            CheckpointError: It is not there, or not of this shape.
        """
        tensors, (classes, width) = Tensors(weights), (len(config.classes), config.encoder.width)
        weight = tensors.read("head.weight", (classes, width))
        bias = tensors.read("head.bias", (classes,))
        if not np.isfinite(weight).all() or not np.isfinite(bias).all():
            raise CheckpointError(
                f"{weights}: the head holds NaN or infinity", hint="fetch or train it again"
            )
        return cls(weight, bias, config.class_scores)

    def judge(self, pooled: NDArray[np.float32]) -> tuple[float, tuple[float, ...]]:
        """Return the expected score sum_k p_k s_k and the classes' probabilities p, [C].

        Args:
            pooled: Mean outputs of BERT, [D].
        """
        logits = matrix_vector(self._weight, pooled.astype(np.float64)) + self._bias
        powers = np.exp(logits - logits.max())
        share = powers / powers.sum()
        return float(share @ self._scores), tuple(share.tolist())
