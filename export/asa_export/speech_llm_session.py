"""Export of the session grader: encoder, projector, prior, language model, texts and head.

As for the speech LLM, adapters are merged, the language model keeps neither its embedding table nor
its vocabulary projection, and what rounding does to the scores on average, over calibration
sessions, is taken back in their bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from asa_engine.bundle import WEIGHTS_NAME, Bundle, Stages
from asa_engine.graders.speech_llm.model import Projector
from asa_engine.graders.speech_llm_session.config import SessionConfig
from asa_engine.graders.speech_llm_session.model import AcousticPrior, SessionLLM
from asa_engine.graders.speech_llm_session.runtime import STAGE_NAMES
from asa_engine.graders.speech_llm_session.stages import text_ids
from asa_engine.language_model.base import CausalModel
from asa_engine.language_model.opening import open_model
from asa_export import language_model_files as lm
from asa_export.exporter import Exporter, Job, copy_checkpoint
from asa_export.graph import Graph
from asa_export.language_model_quantize import Int4Decoder, Int8Decoder
from asa_export.parity import REFERENCE, Scorer
from asa_export.speech import Recording
from asa_export.speech_llm import NATIVE, PROJECTOR, projector_model, write_encoder
from asa_export.weights import Weights

__all__ = ["EXPORTER", "prior_model"]

PRIOR_ENCODER: Final = "prior_encoder.safetensors"
PRIOR: Final = "prior.onnx"
CALIBRATED: Final = 8
"""Sessions that int8 is calibrated on."""
FEW: Final = 1
"""Sessions that a model larger than memory, which reads itself for each, is heard on."""


def _validate(opened: Bundle) -> SessionConfig:
    """Check that the source holds a whole, finite session grader."""
    return SessionLLM.load(opened.path).config


def _build(job: Job[SessionConfig]) -> Stages:
    """Write every artifact; return the stages that they serve."""
    opened, config, work, variants = job.opened, job.config, job.work, job.variants
    copy_checkpoint(opened, work)
    grader = SessionLLM.load(opened.path)
    model = grader.speech.language_model
    language_model = lm.DecoderFiles(model, work, positions=config.longest_sequence)
    language_model.check(variants)
    encoder = write_encoder(grader.speech, work)
    beside = {}
    if grader.prior_encoder is not None:
        state = grader.prior_encoder.state_dict()
        lm.write_tensors(
            work / PRIOR_ENCODER, {name: lm.halved(value) for name, value in state.items()}
        )
        beside = {"prior_encoder": PRIOR_ENCODER}
    trained = Weights(opened.path / WEIGHTS_NAME)
    onnx.save(projector_model(grader.speech, trained), work / PROJECTOR)
    onnx.save(prior_model(grader.prior, trained), work / PRIOR)

    exact = language_model.exact()
    beginning = _beginning(grader, exact)
    head = _head(grader, beginning)
    rounding = any(precision != "fp32" for _, precision in variants)
    most = FEW if language_model.stored else CALIBRATED
    calibration = job.speech.calibration[:most] if rounding else []
    sequences = [rows[beginning.shape[3] :] for rows in _sequences(grader, calibration)]
    stages: Stages = {"grader": {REFERENCE[0]: {REFERENCE[1]: WEIGHTS_NAME}}}
    for backend, precision in variants:
        file, its_head = f"{lm.FOLDER}/fp32.onnx", head
        if precision != "int4":
            seen = None
            if precision == "int8":
                seen = language_model.calibrate(beginning, sequences)
            if backend == NATIVE:
                file = language_model.write_native(seen)
            elif seen is not None:
                file = language_model.write(precision, Int8Decoder(language_model.weights, seen))
        else:
            file = language_model.write(precision, Int4Decoder())
        if precision != "fp32":
            rounded = open_model(work / file, threads=1)
            moved = lm.mean_hidden(exact, beginning, sequences) - lm.mean_hidden(
                rounded, beginning, sequences
            )
            its_head = {**head, "answer.bias": head["answer.bias"] + head["answer.weight"] @ moved}
        its_name = f"head.{backend}.{precision}.safetensors"
        lm.write_tensors(work / its_name, its_head)
        files = dict(
            zip(STAGE_NAMES, (encoder, PROJECTOR, PRIOR, file, its_name), strict=True), **beside
        )
        for stage, name in files.items():
            stages.setdefault(stage, {}).setdefault(backend, {})[precision] = name
    unread = "fp32" not in (precision for _, precision in variants)
    language_model.remove(graph=("onnxruntime", "fp32") not in variants, tensors=unread)
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


def _beginning(grader: SessionLLM, decoder: CausalModel) -> NDArray[np.float32]:
    """Return keys and values of the prompt's beginning; of no position where none are kept."""
    if not grader.config.keeps_beginning:
        return np.zeros((2, decoder.layers, decoder.heads, 0, decoder.head_width), np.float32)
    ids = torch.tensor(grader.config.speech.prompt.prefix_ids, dtype=torch.long)
    return lm.state_of(decoder, grader.speech.language_model.embed(ids))


def _head(grader: SessionLLM, beginning: NDArray[np.float32]) -> dict[str, Tensor]:
    """Return what is read beside the graphs."""
    speech, prior = grader.speech, grader.prior
    assert speech.head is not None
    head = {
        "texts": speech.language_model.embed(torch.tensor(text_ids(grader.config))),
        # Probabilities sum to one, so that the bias may stand in every row.
        "levels": prior.projector.weight.T + prior.projector.bias,
        "answer.weight": speech.head.weight.detach(),
        "answer.bias": speech.head.bias.detach(),
    }
    if isinstance(speech.projector, Projector):
        head["layer_weights"] = speech.projector.layer_mix.softmax(0)
    if beginning.shape[3]:
        head["prefix"] = torch.from_numpy(beginning)
    return head


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


def _timed(scorer: Scorer, samples: NDArray[np.float32]) -> None:
    scorer.score(samples, parts=((scorer.config.parts[0].name, len(samples)),))


EXPORTER = Exporter(
    targets={
        "native": (NATIVE, ("fp32", "int8")),
        "onnx": ("onnxruntime", ("fp32", "int8", "int4")),
    },
    preferred=(("onnxruntime", "int8"), ("onnxruntime", "fp32")),
    validate=_validate,
    build=_build,
    timed="a session of 8 s of speech in one part",
    timed_pass=_timed,
)
