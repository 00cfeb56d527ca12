"""Export of the speech LLM: adapters merged, encoder, projector, language model and head.

The language model keeps neither its embedding table nor its vocabulary projection: the prompt's
embeddings and the rows of the answer are all of them that the grader reads. What rounding does to
the answer on average, over calibration recordings, is taken back in its bias.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from safetensors.torch import save
from torch import Tensor

from asa_engine.bundle import CONFIG_NAME, WEIGHTS_NAME, Bundle, Stages
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.model import Projector, SpeechLLM
from asa_engine.graders.speech_llm.runtime import STAGE_NAMES
from asa_engine.graders.speech_llm.stages import SpeechLLMStages
from asa_engine.language_model.decoder import Decoder
from asa_engine.nn.audio_language_model import AudioEncoder, AudioProjector
from asa_engine.nn.lora import merge_lora
from asa_export.audio_encoder import audio_encoder_model, constant, linear_rows
from asa_export.exporter import Exporter, Variant
from asa_export.graph import Graph
from asa_export.language_model import (
    TOKENS,
    VOCABULARY,
    FloatDecoder,
    decoder_model,
    decoder_tensors,
    split_fused,
)
from asa_export.language_model_calibrate import calibrate_decoder
from asa_export.language_model_config import DecoderConfig
from asa_export.language_model_half import HALVES, HalfDecoder, form_for_cpu
from asa_export.language_model_quantize import Int4Decoder, Int8Decoder
from asa_export.parity import REFERENCE
from asa_export.speech import Recording, Speech
from asa_export.speech_units import unit_ids, write_units
from asa_export.weights import Weights

__all__ = ["EXPORTER", "projector_model"]

ENCODER: Final = "encoder.safetensors"
CLIP_ENCODER: Final = "encoder.onnx"
"""Of an audio language model; its weights are those of `ENCODER`."""
PROJECTOR: Final = "projector.onnx"
FOLDER: Final = "language_model"
MERGED: Final = "merged.safetensors"
REPORT: Final = "training.json"
ON_GPU: Final = "onnxruntime-cuda"
CALIBRATED: Final = 24
"""Recordings that int8 is calibrated on."""


def _validate(opened: Bundle) -> SpeechLLMConfig:
    """Check that the source holds a whole, finite speech LLM."""
    return SpeechLLM.load(opened.path).config


def _build(
    opened: Bundle,
    config: SpeechLLMConfig,
    work: Path,
    variants: Sequence[Variant],
    speech: Speech,
) -> Stages:
    """Write every artifact; return the stages that they serve."""
    for file in (CONFIG_NAME, WEIGHTS_NAME, REPORT):
        if (opened.path / file).is_file():
            shutil.copyfile(opened.path / file, work / file)
    grader = SpeechLLM.load(opened.path)
    merge_lora(grader.language_model)
    encoder = _write_encoder(grader, work)
    onnx.save(projector_model(grader, Weights(opened.path / WEIGHTS_NAME)), work / PROJECTOR)

    folder = work / FOLDER
    folder.mkdir()
    shape = DecoderConfig.from_hugging_face(grader.language_model.decoder.config.to_dict())
    state = split_fused(shape, grader.language_model.decoder.state_dict())
    expected = decoder_tensors(shape).keys() - {TOKENS, VOCABULARY}
    _write(folder / MERGED, {name: state[name.removeprefix("model.")] for name in expected})
    weights = Weights(folder / MERGED)
    graph = decoder_model(shape, weights, FloatDecoder(), positions=config.longest_sequence)
    onnx.save(graph, folder / "fp32.onnx")
    exact = Decoder.open(folder / "fp32.onnx", threads=1)
    head = _head(grader, exact)
    sequences = list(_sequences(grader, speech.calibration[:CALIBRATED]))
    stages: Stages = {"grader": {REFERENCE[0]: {REFERENCE[1]: WEIGHTS_NAME}}}
    exact_answer, seen = _mean_answer(head, exact, sequences), None
    for backend, precision in variants:
        smooth = None
        if precision in ("int8", "int4") and seen is None:
            seen = calibrate_decoder(shape, weights, head["prefix"].numpy(), sequences)
        if precision == "int8":
            smooth = Int8Decoder(weights, seen)
        if backend == "ctranslate2":
            file = (
                f"{FOLDER}/{write_units(grader, head['answer.weight'], folder, precision, smooth)}"
            )
            answer = _mean_unit_answer(grader, work / file, sequences)
        elif backend == ON_GPU:
            file = f"{FOLDER}/{precision}.onnx"
            linears = HalfDecoder(precision)
            graph = decoder_model(shape, weights, linears, positions=config.longest_sequence)
            onnx.save(graph, work / file)
            with form_for_cpu(work / file) as here:
                answer = _mean_answer(head, Decoder.open(here, threads=1), sequences)
        else:
            file = f"{FOLDER}/{precision}.onnx"
            if precision != "fp32":
                rounded = smooth or Int4Decoder(seen)
                graph = decoder_model(shape, weights, rounded, positions=config.longest_sequence)
                onnx.save(graph, work / file)
            answer = _mean_answer(head, Decoder.open(work / file, threads=1), sequences)
        moved = exact_answer - answer if precision != "fp32" else torch.zeros(len(answer))
        name = f"head.{backend}.{precision}.safetensors"
        _write(work / name, {**head, "answer.bias": head["answer.bias"] + moved})
        files = (encoder, PROJECTOR, file, name)
        for stage, name in zip(STAGE_NAMES, files, strict=True):
            stages.setdefault(stage, {}).setdefault(backend, {})[precision] = name
    if ("onnxruntime", "fp32") not in variants:
        (folder / "fp32.onnx").unlink()
        if not any(backend == ON_GPU for backend, _ in variants):
            (folder / MERGED).unlink()
    return stages


def _write_encoder(grader: SpeechLLM, work: Path) -> str:
    """Write the encoder; return the file that serves its stage."""
    encoder: Any = grader.encoder
    own = isinstance(encoder, AudioEncoder)
    tower = encoder.tower if own else encoder
    _write(work / ENCODER, {k: _halved(v) for k, v in tower.state_dict().items()})
    if not own:
        return ENCODER
    onnx.save(audio_encoder_model(encoder, Weights(work / ENCODER)), work / CLIP_ENCODER)
    return CLIP_ENCODER


def _judge(bundle: Bundle, backend: str, precision: str) -> SpeechLLMStages | None:
    """Run a GPU's language model on the CPU, where scores are compared."""
    if backend != ON_GPU:
        return None
    config = SpeechLLMConfig.from_dict(bundle.config)
    files = {name: bundle.file(name, backend, precision) for name in STAGE_NAMES}
    with form_for_cpu(files["language_model"]) as here:
        files["language_model"] = here
        return SpeechLLMStages.open(config, files, precision=precision, threads=1)


def projector_model(grader: SpeechLLM, weights: Weights) -> onnx.ModelProto:
    """Build the projector: `frames` [T, D], layers already mixed -> `tokens` [ceil(T / stack), W].

    An audio language model's own makes a token of every frame that its encoder leaves.

    With a codebook it rounds them to its entries, and their numbers go out as `units` [n].

    Args:
        grader: The reference.
        weights: Any tensors; the graph keeps its own.
    """
    projector, graph = grader.projector, Graph("projector", weights)
    x = graph.input("frames", ["frames", grader.config.encoder.d_model])
    if isinstance(projector, AudioProjector):
        for index, layer in enumerate(projector.linears):
            x = linear_rows(graph, graph.op("Gelu", x) if index else x, layer)
    else:
        x = _stacked_tokens(graph, x, projector)
    if grader.codebook is not None:
        entries = grader.codebook.detach()
        near = graph.op("MatMul", x, constant(graph, entries.T))
        near = graph.op("Sub", near, constant(graph, entries.square().sum(1) / 2))
        units = graph.op("ArgMax", near, axis=-1, keepdims=0)
        x = graph.op("Gather", constant(graph, entries), units)
        graph.output(graph.op("Cast", units, to=TensorProto.FLOAT), "units", ["tokens"])
    graph.output(x, "tokens", ["tokens", grader.config.language_model.width])
    return graph.model()


def _stacked_tokens(graph: Graph, x: str, projector: Projector) -> str:
    """Norm, stack, two linear layers, norm."""
    norm = projector.frame_norm
    x = graph.op(
        "LayerNormalization",
        x,
        constant(graph, norm.weight),
        constant(graph, norm.bias),
        axis=-1,
        epsilon=norm.eps,
    )
    stack, zero = graph.constant([projector.stack], np.int64), graph.constant([0], np.int64)
    count = graph.op("Shape", x, start=0, end=1)
    # Mod of a negative number has the divisor's sign: what is missing to whole stacks.
    missing = graph.op("Mod", graph.op("Neg", count), stack)
    x = graph.op("Pad", x, graph.op("Concat", zero, zero, missing, zero, axis=0))
    x = graph.op("Reshape", x, graph.constant([-1, projector.fc1.in_features], np.int64))
    x = graph.op("Gelu", linear_rows(graph, x, projector.fc1))
    x = linear_rows(graph, x, projector.fc2)
    return graph.op(
        "SimplifiedLayerNormalization",
        x,
        constant(graph, projector.norm.weight),
        axis=-1,
        epsilon=projector.norm.eps,
    )


def _head(grader: SpeechLLM, decoder: Decoder) -> dict[str, Tensor]:
    """Return what is read beside the graphs: mix of layers, prompt, rows of the answer."""
    model, prompt = grader.language_model, grader.config.prompt
    weight: Tensor = model.output.weight[list(prompt.label_ids)]
    bias = torch.zeros(len(weight))
    if grader.head is not None:
        weight, bias = grader.head.weight, grader.head.bias
    prefix = model.embed(torch.tensor(prompt.prefix_ids, dtype=torch.long))
    sequence = decoder.start(len(prefix))
    sequence.extend(prefix.detach().numpy())
    mix = {}
    if isinstance(grader.projector, Projector):
        mix["layer_weights"] = grader.projector.layer_mix.softmax(0)
    return {
        **mix,
        "prefix": torch.from_numpy(sequence.state()),
        "suffix": model.embed(torch.tensor(prompt.suffix_ids, dtype=torch.long)),
        "answer.weight": weight,
        "answer.bias": bias,
        **{f"prior.{name}": _halved(value) for name, value in grader.prior.named_parameters()},
    }


def _mean_answer(
    head: dict[str, Tensor], decoder: Decoder, sequences: Sequence[NDArray[np.float32]]
) -> Tensor:
    """Return the answer [K], without its bias, that sequences behind the prompt get on average."""
    trunk = decoder.resume(head["prefix"].numpy())
    hidden = [trunk.fork(trunk.length + len(rows)).extend(rows)[-1] for rows in sequences]
    return head["answer.weight"].detach() @ torch.from_numpy(np.mean(hidden, axis=0))


def _mean_unit_answer(
    grader: SpeechLLM, model: Path, sequences: Sequence[NDArray[np.float32]]
) -> Tensor:
    """Return the answer [K], without its bias, that CTranslate2 gives on average."""
    import ctranslate2

    generator = ctranslate2.Generator(str(model.parent), compute_type="default", intra_threads=1)
    with torch.inference_mode():
        ids = [unit_ids(grader, torch.from_numpy(rows)) for rows in sequences]
    logits = [np.array(generator.forward_batch([item]))[0, -1] for item in ids]
    return torch.from_numpy(np.mean(logits, axis=0))


def _sequences(grader: SpeechLLM, recordings: Iterable[Recording]) -> Iterator[NDArray[np.float32]]:
    """Yield what follows the prompt's beginning, [n, W], for every chunk of the recordings."""
    for recording in recordings:
        mels = grader.mels(recording.samples())
        with torch.inference_mode():
            tokens = torch.cat([grader.window(mel)[0] for mel in mels])
        for sequence in grader.sequences(grader.chunks(tokens)):
            yield sequence.detach().numpy()


def _halved(value: Tensor) -> Tensor:
    """Return float16 where that loses nothing: published encoders are stored so."""
    half = value.half()
    return half if torch.equal(half.float(), value) else value


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    state = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    path.write_bytes(save(state))


EXPORTER = Exporter(
    targets={
        "onnx": ("onnxruntime", ("fp32", "int8", "int4")),
        "ctranslate2": ("ctranslate2", ("fp32", "int8")),  # of graders with units
        "onnx-cuda": (ON_GPU, tuple(HALVES)),
    },
    needs={"ctranslate2": "units"},
    on_request=(("ctranslate2", "int8"),),
    validate=_validate,
    build=_build,
    judge=_judge,
)
