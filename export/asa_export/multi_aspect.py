"""Export of the multi-aspect grader: recogniser, both frozen encoders and the trained parts.

Every variant hears the same words: the recogniser stays as it is in all of them. The speech
encoder is a float32 graph for ONNX Runtime, or the recogniser's own weights on the project's
kernels at the variant's precision; the text encoder, int8 at int8, and the trained parts run in
ONNX Runtime. The int8 graph of the speech encoder that serves the acoustic grader is not used:
attention pooling over its frames moved scores by 0.04 points (RMS), over the budget.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors.numpy import save_file

from asa_engine.bundle import WEIGHTS_NAME, Bundle, Stages
from asa_engine.errors import UsageError
from asa_engine.features.word_pieces import TOKENIZER_NAME
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.graders.multi_aspect.reference import backbone_path
from asa_engine.nn.bert import load_bert, shape_of
from asa_engine.nn.config import BertShape
from asa_engine.nn.ct2 import read_ct2_encoder
from asa_engine.nn.wav2vec2 import load_wav2vec2
from asa_export.aspects import aspects_model, expected_tensors
from asa_export.bert import FloatBert, Int8Bert, bert_model
from asa_export.exporter import Exporter, Job, copy_checkpoint, whole
from asa_export.onnx import FloatLinears, encoder_model
from asa_export.parity import REFERENCE
from asa_export.wav2vec2 import wav2vec2_model
from asa_export.weights import Weights

__all__ = ["EXPORTER"]

RECOGNISER, ENCODER, TEXT, ASPECTS = "recogniser", "encoder", "text_encoder", "aspects"
RECOGNISER_NAME = "model.bin"
BERT_NAME = "bert.safetensors"
ENCODER_NAME = "encoder.safetensors"
ASPECTS_NAME = "aspects.onnx"
LAST_ONLY = 80.0
"""A mix of layers is a softmax: with this lead, the others' shares vanish in float32."""


def _validate(opened: Bundle) -> MultiAspectConfig:
    """Check that the source holds a whole, finite multi-aspect grader that can be exported."""
    config = MultiAspectConfig.from_dict(opened.config)
    return whole(opened, config, expected_tensors(config))


def _build(job: Job[MultiAspectConfig]) -> Stages:
    """Write every artifact; return the stages that they serve."""
    opened, config, work, variants = job.opened, job.config, job.work, job.variants
    copy_checkpoint(opened, work)
    shutil.copytree(backbone_path(config, RECOGNISER), work / RECOGNISER)
    words = f"{RECOGNISER}/{RECOGNISER_NAME}"
    onnx.save(aspects_model(config, Weights(work / WEIGHTS_NAME)), work / ASPECTS_NAME)
    if config.hears_waves and any(backend == "native" for backend, _ in variants):
        raise UsageError(
            "a grader that hears with wav2vec2 has no kernels of its own",
            hint="export with --target onnx",
        )
    runs_graph = any(backend == "onnxruntime" for backend, _ in variants)
    write_encoder = _write_wav2vec2 if config.hears_waves else _write_encoder
    speaker = write_encoder(config, work) if runs_graph else words
    reader = _Text(config, work)
    stages: Stages = {"grader": {REFERENCE[0]: {REFERENCE[1]: WEIGHTS_NAME}}}
    for backend, precision in variants:
        text = "int8" if precision == "int8" else "fp32"
        files = {
            RECOGNISER: words,
            ENCODER: words if backend == "native" else speaker,
            TEXT: reader.write(text),
            ASPECTS: ASPECTS_NAME,
        }
        for stage, file in files.items():
            stages.setdefault(stage, {}).setdefault(backend, {})[precision] = file
    reader.close()
    return stages


def _write_encoder(config: MultiAspectConfig, work: Path) -> str:
    """Write the speech encoder as the acoustic grader's graph, whose `frames` are what is used.

    Returns:
        Its path in the bundle.
    """
    shape = AcousticConfig(
        aspects=config.aspects,
        encoder=config.speech_encoder,
        window_s=config.window_s,
        attention_heads=1,
    )
    folder = work / ENCODER
    folder.mkdir()
    tensors, _ = read_ct2_encoder(work / RECOGNISER / RECOGNISER_NAME)
    mix = np.zeros(shape.encoder.layers + 1, dtype=np.float32)
    if not config.mixed_layers:
        mix[-1] = LAST_ONLY
    stored: dict[str, NDArray[np.generic]] = {
        f"encoder.{name}": tensor.astype(np.float16) for name, tensor in tensors.items()
    }
    stored |= {
        "layer_mix": mix,
        "attention.weight": np.zeros((1, shape.encoder.d_model), dtype=np.float32),
        "attention.bias": np.zeros(1, dtype=np.float32),
    }
    save_file(stored, folder / ENCODER_NAME)
    graph = encoder_model(shape, Weights(folder / ENCODER_NAME), FloatLinears())
    onnx.save(graph, folder / "fp32.onnx")
    return f"{ENCODER}/fp32.onnx"


def _write_wav2vec2(config: MultiAspectConfig, work: Path) -> str:
    """Write the wav2vec2; return its path in the bundle."""
    folder = work / ENCODER
    folder.mkdir()
    model = load_wav2vec2(backbone_path(config, "speech_encoder"))
    graph = wav2vec2_model(
        model, Weights(work / WEIGHTS_NAME), folder / "fp32.data", mixed=config.mixed_layers
    )
    onnx.save(graph, folder / "fp32.onnx")
    return f"{ENCODER}/fp32.onnx"


class _Text:
    """Writes the text encoder; its float32 weights lie beside the graph, int8 ones inside it."""

    def __init__(self, config: MultiAspectConfig, work: Path) -> None:
        source = backbone_path(config, TEXT)
        self._pooling = config.prompt_pooling
        self._folder = work / TEXT
        self._folder.mkdir()
        shutil.copyfile(source / TOKENIZER_NAME, self._folder / TOKENIZER_NAME)
        bert = load_bert(source)
        state = {name: value.numpy() for name, value in bert.state_dict().items()}
        save_file(state, self._folder / BERT_NAME)
        self._weights = Weights(self._folder / BERT_NAME)
        self._shape: BertShape = shape_of(bert.config)

    def write(self, precision: str) -> str:
        """Write the graph of a precision, once; return its path in the bundle."""
        path = self._folder / f"{precision}.onnx"
        if not path.is_file():
            parts = FloatBert() if precision == "fp32" else Int8Bert()
            graph = bert_model(self._shape, self._weights, parts, pooling=self._pooling)
            onnx.save(graph, path)
        return f"{TEXT}/{path.name}"

    def close(self) -> None:
        """Drop the float32 weights where no graph points into them."""
        if not (self._folder / "fp32.onnx").is_file():
            self._weights.path.unlink()


EXPORTER = Exporter(
    targets={
        "onnx": ("onnxruntime", ("fp32", "int8")),
        "native": ("native", ("bf16", "int8")),
    },
    preferred=(("native", "int8"),),
    validate=_validate,
    build=_build,
    timed="8 s of speech, transcribed and graded",
)
