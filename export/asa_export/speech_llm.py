"""Export of the speech LLM: adapters merged, encoder, projector, language model and head.

The language model keeps neither its embedding table nor its vocabulary projection: the prompt's
embeddings and the rows of the answer are all of them that the grader reads. What rounding does to
the answer on average, over calibration recordings, is taken back in its bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from asa_engine.bundle import WEIGHTS_NAME, Bundle, Stages
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.model import Projector, SpeechLLM
from asa_engine.graders.speech_llm.runtime import STAGE_NAMES
from asa_engine.graders.speech_llm.stages import SpeechLLMStages
from asa_engine.language_model.base import CausalModel
from asa_engine.language_model.decoder import Decoder
from asa_engine.language_model.native import NativeModel
from asa_engine.nn.audio_language_model import AudioEncoder, AudioProjector
from asa_export.audio_encoder import audio_encoder_model, constant, linear_rows
from asa_export.exporter import Exporter, Job, copy_checkpoint
from asa_export.graph import Graph
from asa_export.language_model_files import (
    FOLDER,
    DecoderFiles,
    halved,
    mean_hidden,
    state_of,
    write_tensors,
)
from asa_export.language_model_half import HALVES, HalfDecoder, form_for_cpu
from asa_export.language_model_quantize import Int4Decoder, Int8Decoder
from asa_export.language_model_stored import stored_tensors
from asa_export.parity import REFERENCE
from asa_export.quantize import Calibration
from asa_export.speech import Recording, Speech
from asa_export.speech_units import unit_ids, write_units
from asa_export.weights import Weights

__all__ = ["EXPORTER", "projector_model", "write_encoder"]

ENCODER: Final = "encoder.safetensors"
CLIP_ENCODER: Final = "encoder.onnx"
"""Of an audio language model; its weights are those of `ENCODER`."""
PROJECTOR: Final = "projector.onnx"
NATIVE: Final = "native"
ON_GPU: Final = "onnxruntime-cuda"
CALIBRATED: Final = 24
"""Recordings that int8 is calibrated on."""
FEW: Final = 2
"""Recordings that a model larger than memory, which reads itself for each, is heard on."""


def _validate(opened: Bundle) -> SpeechLLMConfig:
    """Check that the source holds a whole, finite speech LLM."""
    return SpeechLLM.load(opened.path).config


def _build(job: Job[SpeechLLMConfig]) -> Stages:
    """Write every artifact; return the stages that they serve."""
    opened, config, work, variants = job.opened, job.config, job.work, job.variants
    copy_checkpoint(opened, work)
    grader = SpeechLLM.load(opened.path)
    files = DecoderFiles(grader.language_model, work, positions=config.longest_sequence)
    files.check(variants)
    encoder = write_encoder(grader, work)
    onnx.save(projector_model(grader, Weights(opened.path / WEIGHTS_NAME)), work / PROJECTOR)

    exact = files.exact()
    head = _head(grader, exact)
    stages: Stages = {"grader": {REFERENCE[0]: {REFERENCE[1]: WEIGHTS_NAME}}}
    rounding = None
    for backend, precision in variants:
        bias = head["answer.bias"]
        if precision == "fp32":
            file = f"{FOLDER}/fp32.onnx"
            if backend == NATIVE:
                file = files.write_native(None)
            elif backend == "ctranslate2":
                file = write_units(grader, head["answer.weight"], work / FOLDER, precision, None)
        else:
            rounding = rounding or _Rounding(grader, work, files, head, job.speech)
            file, answer = rounding.write(backend, precision)
            bias = bias + rounding.mean_answer(exact) - answer
        name = f"head.{backend}.{precision}.safetensors"
        write_tensors(work / name, {**head, "answer.bias": bias})
        for stage, artifact in zip(STAGE_NAMES, (encoder, PROJECTOR, file, name), strict=True):
            stages.setdefault(stage, {}).setdefault(backend, {})[precision] = artifact
    exact_kept = ("onnxruntime", "fp32") in variants
    read = exact_kept or (NATIVE, "fp32") in variants
    halves = any(backend == ON_GPU for backend, _ in variants)
    files.remove(graph=not exact_kept, tensors=not (read or halves))
    return stages


class _Rounding:
    """Writes a language model in fewer bits, and says what it answers on calibration recordings.

    Args:
        grader: The reference, adapters merged.
        work: The bundle's folder.
        files: The language model's graphs.
        head: What `_head` returned.
        speech: What is calibrated on.
    """

    def __init__(
        self,
        grader: SpeechLLM,
        work: Path,
        files: DecoderFiles,
        head: dict[str, Tensor],
        speech: Speech,
    ) -> None:
        self._grader, self._work, self._files, self._head = grader, work, files, head
        self._beginning = head["prefix"].numpy()
        few = FEW if files.stored else CALIBRATED
        self._sequences = list(_sequences(grader, speech.calibration[:few]))

    def write(self, backend: str, precision: str) -> tuple[str, Tensor]:
        """Return the file of a variant, below the bundle, and its mean answer [K]."""
        files, work = self._files, self._work
        if backend == ON_GPU:
            file = files.write(precision, HalfDecoder(precision))
            with form_for_cpu(work / file) as here:
                return file, self.mean_answer(Decoder.open(here, threads=1))
        if backend == NATIVE:
            file = files.write_native(self._seen)
            return file, self.mean_answer(NativeModel.open(work / file, threads=1))
        if precision == "int4":
            file = files.write(precision, Int4Decoder(self._seen))
            return file, self.mean_answer(Decoder.open(work / file, threads=1))
        smooth = Int8Decoder(files.weights, self._seen)
        if backend == "ctranslate2":
            weight = self._head["answer.weight"]
            file = write_units(self._grader, weight, work / FOLDER, precision, smooth)
            return file, _mean_unit_answer(self._grader, work / file, self._sequences)
        file = files.write(precision, smooth)
        return file, self.mean_answer(Decoder.open(work / file, threads=1))

    @cached_property
    def _seen(self) -> Calibration:
        """What linear layers see on the calibration recordings."""
        return self._files.calibrate(self._beginning, self._sequences)

    def mean_answer(self, decoder: CausalModel) -> Tensor:
        """Return the answer [K], without its bias, that the recordings get on average."""
        weight = self._head["answer.weight"].detach()
        return weight @ mean_hidden(decoder, self._beginning, self._sequences)


def write_encoder(grader: SpeechLLM, work: Path) -> str:
    """Write the encoder; return the file that serves its stage."""
    encoder: Any = grader.encoder
    own = isinstance(encoder, AudioEncoder)
    tower = encoder.tower if own else encoder
    write_tensors(work / ENCODER, {k: halved(v) for k, v in stored_tensors(tower)})
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


def _head(grader: SpeechLLM, decoder: CausalModel) -> dict[str, Tensor]:
    """Return what is read beside the graphs: mix of layers, prompt, rows of the answer."""
    model, prompt = grader.language_model, grader.config.prompt
    weight = model.output_rows(torch.tensor(prompt.label_ids, dtype=torch.long))
    bias = torch.zeros(len(weight))
    if grader.head is not None:
        weight, bias = grader.head.weight, grader.head.bias
    prefix = model.embed(torch.tensor(prompt.prefix_ids, dtype=torch.long))
    mix = {}
    if isinstance(grader.projector, Projector):
        mix["layer_weights"] = grader.projector.layer_mix.softmax(0)
    return {
        **mix,
        "prefix": torch.from_numpy(state_of(decoder, prefix)),
        "suffix": model.embed(torch.tensor(prompt.suffix_ids, dtype=torch.long)),
        "answer.weight": weight,
        "answer.bias": bias,
        **{f"prior.{name}": halved(value) for name, value in grader.prior.named_parameters()},
    }


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


EXPORTER = Exporter(
    targets={
        "native": (NATIVE, ("fp32", "int8")),
        "onnx": ("onnxruntime", ("fp32", "int8", "int4")),
        "ctranslate2": ("ctranslate2", ("fp32", "int8")),  # of graders with units
        "onnx-cuda": (ON_GPU, tuple(HALVES)),
    },
    needs={"ctranslate2": "units"},
    lacks={"native": "units"},
    on_request=(("ctranslate2", "int8"),),
    preferred=((NATIVE, "int8"), ("onnxruntime", "int8"), ("onnxruntime", "fp32")),
    validate=_validate,
    build=_build,
    judge=_judge,
)
