"""Export of the session grader: encoder, projector, prior, language model, texts and head.

As for the speech LLM, adapters are merged, the language model keeps neither its embedding table nor
its vocabulary projection, and what rounding does to the scores on average, over calibration
sessions, is taken back in their bias.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from asa_engine.bundle import CONFIG_NAME, WEIGHTS_NAME, Bundle, Stages
from asa_engine.graders.speech_llm.model import Projector
from asa_engine.graders.speech_llm.session import AcousticPrior, SessionLLM
from asa_engine.graders.speech_llm.session_config import SessionConfig
from asa_engine.graders.speech_llm.session_runtime import STAGE_NAMES
from asa_engine.graders.speech_llm.session_stages import text_ids
from asa_engine.language_model.decoder import Decoder
from asa_engine.nn.lora import merge_lora
from asa_export.exporter import Exporter, Variant
from asa_export.graph import Graph
from asa_export.language_model import (
    TOKENS,
    VOCABULARY,
    DecoderLinears,
    FloatDecoder,
    decoder_model,
    decoder_tensors,
)
from asa_export.language_model_calibrate import calibrate_decoder
from asa_export.language_model_config import DecoderConfig
from asa_export.language_model_quantize import Int4Decoder, Int8Decoder
from asa_export.parity import REFERENCE, Scorer
from asa_export.speech import Recording, Speech
from asa_export.speech_llm import projector_model
from asa_export.weights import Weights

__all__ = ["EXPORTER", "prior_model"]

ENCODER: Final = "encoder.safetensors"
PROJECTOR: Final = "projector.onnx"
PRIOR: Final = "prior.onnx"
FOLDER: Final = "language_model"
MERGED: Final = "merged.safetensors"
REPORT: Final = "training.json"
CALIBRATED: Final = 8
"""Sessions that int8 is calibrated on."""


def _validate(opened: Bundle) -> SessionConfig:
    """Check that the source holds a whole, finite session grader."""
    return SessionLLM.load(opened.path).config


def _build(
    opened: Bundle,
    config: SessionConfig,
    work: Path,
    variants: Sequence[Variant],
    speech: Speech,
) -> Stages:
    """Write every artifact; return the stages that they serve."""
    for file in (CONFIG_NAME, WEIGHTS_NAME, REPORT):
        if (opened.path / file).is_file():
            shutil.copyfile(opened.path / file, work / file)
    grader = SessionLLM.load(opened.path)
    decoder = grader.speech.language_model.decoder
    merge_lora(decoder)
    encoder = grader.speech.encoder.state_dict()
    _write(work / ENCODER, {name: _halved(value) for name, value in encoder.items()})
    trained = Weights(opened.path / WEIGHTS_NAME)
    onnx.save(projector_model(grader.speech, trained), work / PROJECTOR)
    onnx.save(prior_model(grader.prior, trained), work / PRIOR)

    folder = work / FOLDER
    folder.mkdir()
    shape, state = DecoderConfig.from_hugging_face(decoder.config.to_dict()), decoder.state_dict()
    expected = decoder_tensors(shape).keys() - {TOKENS, VOCABULARY}
    _write(folder / MERGED, {name: state[name.removeprefix("model.")] for name in expected})
    weights = Weights(folder / MERGED)

    def graph(linears: DecoderLinears) -> onnx.ModelProto:
        return decoder_model(shape, weights, linears, positions=config.longest_sequence)

    onnx.save(graph(FloatDecoder()), folder / "fp32.onnx")
    exact = Decoder.open(folder / "fp32.onnx", threads=1)
    beginning = _beginning(grader, exact)
    head = _head(grader, beginning)
    skipped = beginning.shape[3]
    sequences = [rows[skipped:] for rows in _sequences(grader, speech.calibration[:CALIBRATED])]
    stages: Stages = {"grader": {REFERENCE[0]: {REFERENCE[1]: WEIGHTS_NAME}}}
    for backend, precision in variants:
        file = f"{FOLDER}/{precision}.onnx"
        its_head = head
        if precision != "fp32":
            linears: DecoderLinears = Int4Decoder()
            if precision == "int8":
                linears = Int8Decoder(
                    weights, calibrate_decoder(shape, weights, beginning, sequences)
                )
            onnx.save(graph(linears), work / file)
            rounded = Decoder.open(work / file, threads=1)
            moved = _mean_hidden(beginning, exact, sequences) - _mean_hidden(
                beginning, rounded, sequences
            )
            its_head = {**head, "answer.bias": head["answer.bias"] + head["answer.weight"] @ moved}
        _write(work / f"head.{precision}.safetensors", its_head)
        files = (ENCODER, PROJECTOR, PRIOR, file, f"head.{precision}.safetensors")
        for stage, name in zip(STAGE_NAMES, files, strict=True):
            stages.setdefault(stage, {}).setdefault(backend, {})[precision] = name
    if "fp32" not in (precision for _, precision in variants):
        (folder / "fp32.onnx").unlink()
        (folder / MERGED).unlink()
    return stages


def prior_model(prior: AcousticPrior, weights: Weights) -> onnx.ModelProto:
    """Build the prior: `mean` [1, D] -> `probabilities` [1, L].

    Args:
        prior: The reference.
        weights: Any tensors; the graph keeps its own.
    """
    graph = Graph("prior", weights)

    def constant(value: Tensor) -> str:
        return graph.constant(value.detach().float().numpy())

    x = graph.input("mean", [1, prior.fc1.in_features])
    x = graph.op(
        "LayerNormalization",
        x,
        constant(prior.norm.weight),
        constant(prior.norm.bias),
        axis=-1,
        epsilon=prior.norm.eps,
    )
    x = graph.op("Gemm", x, constant(prior.fc1.weight), constant(prior.fc1.bias), transB=1)
    x = graph.op("Gelu", x)
    x = graph.op("Gemm", x, constant(prior.fc2.weight), constant(prior.fc2.bias), transB=1)
    x = graph.op("Softmax", x, axis=-1)
    graph.output(x, "probabilities", [1, prior.fc2.out_features])
    return graph.model()


def _beginning(grader: SessionLLM, decoder: Decoder) -> NDArray[np.float32]:
    """Return keys and values of the prompt's beginning; of no position where the prior is first."""
    if grader.config.prior.position == "first":
        return np.zeros((2, decoder.layers, decoder.heads, 0, decoder.head_width), np.float32)
    ids = torch.tensor(grader.config.speech.prompt.prefix_ids, dtype=torch.long)
    sequence = decoder.start(len(ids))
    sequence.extend(grader.speech.language_model.embed(ids).detach().numpy())
    return sequence.state()


def _head(grader: SessionLLM, beginning: NDArray[np.float32]) -> dict[str, Tensor]:
    """Return what is read beside the graphs."""
    speech, prior = grader.speech, grader.prior
    assert speech.head is not None
    assert isinstance(speech.projector, Projector)
    head = {
        "layer_weights": speech.projector.layer_mix.softmax(0),
        "texts": speech.language_model.embed(torch.tensor(text_ids(grader.config))),
        # Probabilities sum to one, so that the bias may stand in every row.
        "levels": prior.projector.weight.T + prior.projector.bias,
        "answer.weight": speech.head.weight.detach(),
        "answer.bias": speech.head.bias.detach(),
    }
    if beginning.shape[3]:
        head["prefix"] = torch.from_numpy(beginning)
    return head


def _mean_hidden(
    beginning: NDArray[np.float32], decoder: Decoder, sequences: Sequence[NDArray[np.float32]]
) -> Tensor:
    """Return the last hidden state [W] that sequences behind the beginning get on average."""
    hidden = []
    for rows in sequences:
        capacity = beginning.shape[3] + len(rows)
        start = decoder.start(capacity)
        if beginning.shape[3]:
            start = decoder.resume(beginning).fork(capacity)
        hidden.append(start.extend(rows)[-1])
    return torch.from_numpy(np.mean(hidden, axis=0))


@torch.inference_mode()
def _sequences(
    grader: SessionLLM, recordings: Iterable[Recording]
) -> Iterator[NDArray[np.float32]]:
    """Yield every session as the language model is given it, [T, W]."""
    for recording in recordings:
        responses: dict[str, list[Tensor]] = {}
        totals, frames = [], 0
        for part, samples in recording.responses():
            heard = grader.hear(samples)
            if heard is not None:
                responses.setdefault(part, []).append(heard.tokens)
                totals.append(heard.total)
                frames += heard.frames
        if totals:
            mean = (torch.stack(totals).sum(0) / frames).float()
            prior = grader.prior.embed(grader.prior(mean[None]))[0]
            yield grader.sequence(responses, prior).numpy()


def _halved(value: Tensor) -> Tensor:
    """Return float16 where that loses nothing: published encoders are stored so."""
    half = value.half()
    return half if torch.equal(half.float(), value) else value


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    state = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    path.write_bytes(save(state))


def _timed(scorer: Scorer, samples: NDArray[np.float32]) -> None:
    scorer.score(samples, parts=((scorer.config.parts[0].name, len(samples)),))


EXPORTER = Exporter(
    targets={"onnx": ("onnxruntime", ("fp32", "int8", "int4"))},
    validate=_validate,
    build=_build,
    timed="a session of 8 s of speech in one part",
    timed_pass=_timed,
)
