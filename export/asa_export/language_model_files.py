"""What exports of graders with a language model have in common: its files, and its mean answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from asa_engine.errors import UsageError
from asa_engine.language_model.base import CausalModel
from asa_engine.language_model.decoder import Decoder
from asa_engine.nn.language_model import LanguageModel
from asa_engine.nn.lora import merge_lora
from asa_engine.nn.stored_layers import is_stored
from asa_export.exporter import LOG
from asa_export.external import ExternalData
from asa_export.language_model import (
    TOKENS,
    VOCABULARY,
    DecoderLinears,
    FloatDecoder,
    decoder_model,
    decoder_tensors,
    split_fused,
)
from asa_export.language_model_calibrate import calibrate_decoder
from asa_export.language_model_config import DecoderConfig
from asa_export.language_model_native import rotary, rounded_tensors, stated
from asa_export.language_model_stored import StoredModel, StoredWeights
from asa_export.quantize import Calibration
from asa_export.weights import TensorSource, Weights

__all__ = ["FOLDER", "DecoderFiles", "halved", "mean_hidden", "state_of", "write_tensors"]

FOLDER: Final = "language_model"
MERGED: Final = "merged.safetensors"
_STEPS: Final = "int8.safetensors"
_EXACT: Final = "fp32.onnx"
_ROUNDED_TO_DISK: Final = (("onnxruntime", "int8"), ("onnxruntime", "int4"))
LARGEST_INSIDE: Final = 2**30
"""Parameters of a language model whose rounded weights still stand in its graph."""


class DecoderFiles:
    """The files of a language model, in a bundle that is being made.

    One that is larger than memory (`asa_engine.nn.stored_layers`) is never written at float32, nor
    calibrated: its weights are read where they are and rounded to the nearest steps.

    Args:
        model: The language model; its adapters are merged, in place where it is in memory.
        work: The bundle's folder.
        positions: Positions that the graphs' rotary tables cover.
        tables: Those of `TOKENS` and `VOCABULARY` that the grader needs, by name; the former is
            taken from the decoder.

    Attributes:
        shape: Its shape.
        weights: Its tensors, in a file below `work`; the project's kernels take it as it is.
        stored: Whether it is larger than memory.
    """

    def __init__(
        self,
        model: LanguageModel,
        work: Path,
        *,
        positions: int,
        tables: Mapping[str, Tensor] | None = None,
    ) -> None:
        decoder = model.decoder
        self._work, self._positions, self._model = work, positions, model
        self.shape = DecoderConfig.from_hugging_face(decoder.config.to_dict())
        self.stored = is_stored(decoder)
        self.weights: TensorSource
        (work / FOLDER).mkdir()
        if self.stored:
            LOG.info("the language model is larger than memory: a matrix at a time, not calibrated")
            self.weights = StoredWeights(self.shape, decoder)
            return
        merge_lora(decoder)
        state = split_fused(self.shape, decoder.state_dict())
        names = decoder_tensors(self.shape).keys() - {TOKENS, VOCABULARY}
        tensors = {name: state[name.removeprefix("model.")] for name in names} | dict(tables or {})
        tensors |= rotary(self.shape, positions)
        write_tensors(work / FOLDER / MERGED, tensors, stated(self.shape))
        self.weights = Weights(work / FOLDER / MERGED)
        self.write("fp32", FloatDecoder())

    def write(self, precision: str, linears: DecoderLinears) -> str:
        """Write the decoder with these linear layers; return its file, below the bundle."""
        LOG.info("write the language model at %s", precision)
        file = f"{FOLDER}/{precision}.onnx"
        external = None
        if precision != "fp32" and self._parameters() > LARGEST_INSIDE:
            external = ExternalData(self._work / FOLDER / f"{precision}.data")
        graph = decoder_model(
            self.shape, self.weights, linears, positions=self._positions, external=external
        )
        onnx.save(graph, self._work / file)
        return file

    def _parameters(self) -> int:
        return sum(math.prod(self.weights.shape(name)) for name in self.weights.names())

    def check(self, variants: Sequence[tuple[str, str]]) -> None:
        """Check that the model can have these variants, backend and precision each.

        Raises:
            UsageError: It is larger than memory, and one of them would hold it whole.
        """
        for backend, precision in variants:
            if backend == "native" and 0 < self.shape.positions < self._positions:
                raise UsageError(
                    f"the kernels know one regime of LongRoPE, {self.shape.positions} positions; "
                    f"this grader has {self._positions}",
                    hint="export it with --target onnx, or train one with a lower max_audio_s",
                )
            if self.stored and (backend, precision) not in _ROUNDED_TO_DISK:
                raise UsageError(
                    f"a language model larger than this machine's memory cannot be exported to "
                    f"{backend}/{precision}",
                    hint="export it with --target onnx --precision int8 or int4",
                )

    def write_native(self, calibration: Calibration | None) -> str:
        """Write the decoder for the project's kernels; return its file, below the bundle.

        Args:
            calibration: What int8 is rounded by; `None` for float32.
        """
        if calibration is None:
            return f"{FOLDER}/{MERGED}"
        LOG.info("write the language model at int8 for the kernels")
        tensors = rounded_tensors(self.shape, self.weights, calibration, positions=self._positions)
        write_tensors(self._work / FOLDER / _STEPS, tensors, stated(self.shape))
        return f"{FOLDER}/{_STEPS}"

    def exact(self) -> CausalModel:
        """Open the float32 graph, or what computes the same."""
        if self.stored:
            return StoredModel(self._model, self.shape, self._positions)
        return Decoder.open(self._work / FOLDER / _EXACT, threads=1)

    def calibrate(
        self, beginning: NDArray[np.float32], sequences: Sequence[NDArray[np.float32]]
    ) -> Calibration:
        """Return what linear layers see on sequences behind a beginning; nothing if stored."""
        if isinstance(self.weights, Weights):
            return calibrate_decoder(self.shape, self.weights, beginning, sequences)
        return {}

    def remove(self, *, graph: bool, tensors: bool) -> None:
        """Remove the float32 graph, and the tensors, where no variant reads them."""
        if self.stored:
            return
        if graph:
            (self._work / FOLDER / _EXACT).unlink()
        if tensors:
            (self._work / FOLDER / MERGED).unlink()


def state_of(decoder: CausalModel, embeddings: Tensor) -> NDArray[np.float32]:
    """Return keys and values of a beginning, float32 [2, layers, kv_heads, P, head_width].

    Args:
        decoder: What it is run through.
        embeddings: The beginning, float32 [P, W].
    """
    sequence = decoder.start(len(embeddings))
    sequence.extend(embeddings.detach().numpy())
    return sequence.state()


def mean_hidden(
    decoder: CausalModel, beginning: NDArray[np.float32], sequences: Sequence[NDArray[np.float32]]
) -> Tensor:
    """Return the last hidden state [W] that sequences behind a common beginning get on average.

    Args:
        decoder: What they are run through.
        beginning: Its keys and values, float32 [2, layers, kv_heads, P, head_width]; P may be 0.
        sequences: What follows it, float32 [n, W] each.
    """
    positions = beginning.shape[3]
    trunk = decoder.resume(beginning) if positions else None
    hidden = []
    for rows in sequences:
        capacity = positions + len(rows)
        sequence = decoder.start(capacity) if trunk is None else trunk.fork(capacity)
        hidden.append(sequence.extend(rows)[-1])
    return torch.from_numpy(np.mean(hidden, axis=0))


def halved(value: Tensor) -> Tensor:
    """Return float16 or bfloat16 where that loses nothing: published encoders are stored so."""
    for half in (value.half(), value.bfloat16()):
        if torch.equal(half.float(), value):
            return half
    return value


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors; only views of others are copied first."""
    state = {}
    for name, value in tensors.items():
        whole = value.detach().contiguous()
        viewed = whole.untyped_storage().nbytes() != whole.nbytes
        state[name] = whole.clone() if viewed else whole
    save_file(state, path, metadata)
