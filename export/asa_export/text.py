"""Export of the text grader: recogniser, text encoder and head, for every variant.

Every variant hears the same words: they share one recogniser. The text encoder
is a graph for ONNX Runtime or files of CTranslate2; the head is the checkpoint's.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import onnx
import torch
from safetensors.torch import save
from transformers import BertModel

from asa_engine.backbones import model_folder
from asa_engine.bundle import WEIGHTS_NAME, Bundle, Stages
from asa_engine.features.word_pieces import TOKENIZER_NAME
from asa_engine.graders.text.config import TextConfig
from asa_engine.graders.text.model import TextGrader
from asa_engine.nn.bert import bert_config, quiet
from asa_export.bert import FloatBert, Int8Bert, bert_model, expected_tensors
from asa_export.ctranslate2 import convert_whisper
from asa_export.exporter import Exporter, Job, copy_checkpoint
from asa_export.parity import REFERENCE
from asa_export.weights import Weights

__all__ = ["EXPORTER", "write_ctranslate2", "write_onnx"]

ENCODER = "text_encoder"
BERT_NAME = "bert.safetensors"
RECOGNISER = "recogniser"


def _validate(opened: Bundle) -> TextConfig:
    """Check that the source holds a whole, finite text grader."""
    config = TextConfig.from_dict(opened.config)
    _load(opened, config)
    return config


def _build(job: Job[TextConfig]) -> Stages:
    """Write every artifact; return the stages that they serve."""
    opened, config, work, variants = job.opened, job.config, job.work, job.variants
    copy_checkpoint(opened, work)
    grader = _load(opened, config)
    folder = work / ENCODER
    folder.mkdir()
    shutil.copyfile(_tokenizer(opened, config), folder / TOKENIZER_NAME)
    stages: Stages = {"grader": {REFERENCE[0]: {REFERENCE[1]: WEIGHTS_NAME}}}
    if config.is_whole:
        shutil.copyfile(folder / TOKENIZER_NAME, work / TOKENIZER_NAME)
    source = model_folder(config.backbones[RECOGNISER])
    model = convert_whisper(source, work / RECOGNISER)
    words = model.relative_to(work).as_posix()
    for backend, precision in variants:
        write = write_onnx if backend == "onnxruntime" else write_ctranslate2
        files = {
            RECOGNISER: words,
            ENCODER: write(grader, folder, precision),
            "head": WEIGHTS_NAME,
        }
        for stage, file in files.items():
            stages.setdefault(stage, {}).setdefault(backend, {})[precision] = file
    return stages


def _load(opened: Bundle, config: TextConfig) -> TextGrader:
    backbone = None if config.is_whole else model_folder(config.backbones[ENCODER])
    return TextGrader.load(opened.path, backbone)


def _tokenizer(opened: Bundle, config: TextConfig) -> Path:
    if config.is_whole:
        return opened.path / TOKENIZER_NAME
    return model_folder(config.backbones[ENCODER]) / TOKENIZER_NAME


def write_onnx(grader: TextGrader, folder: Path, precision: str) -> str:
    """Write BERT as a graph; at float32 its weights lie beside it."""
    shape = grader.config.encoder
    state = {name: value.contiguous() for name, value in grader.bert.state_dict().items()}
    file = folder / f"{precision}.onnx"
    tensors = folder / BERT_NAME
    new = not tensors.exists()
    if new:
        tensors.write_bytes(save(state))
    weights = Weights(tensors)
    weights.check(expected_tensors(shape))
    parts = FloatBert() if precision == "fp32" else Int8Bert()
    onnx.save(bert_model(shape, weights, parts), file)
    if new and precision != "fp32":
        tensors.unlink()
    return f"{ENCODER}/{file.name}"


def write_ctranslate2(grader: TextGrader, folder: Path, precision: str) -> str:
    """Write BERT as CTranslate2's converter does."""
    from ctranslate2.converters import TransformersConverter

    # The converter wants a pooler, which the grader does not use: one of zeros.
    config = bert_config(grader.config.encoder)
    config.position_embedding_type = "absolute"  # which the converter asks for
    full = BertModel(config, add_pooling_layer=True)
    full.load_state_dict(grader.bert.state_dict(), strict=False)
    assert full.pooler is not None
    torch.nn.init.zeros_(full.pooler.dense.weight)
    torch.nn.init.zeros_(full.pooler.dense.bias)
    target = folder / f"ctranslate2-{precision}"
    with tempfile.TemporaryDirectory() as made, quiet():
        full.save_pretrained(made)
        shutil.copyfile(folder / TOKENIZER_NAME, Path(made) / TOKENIZER_NAME)
        kind = {"fp32": "float32", "int8": "int8"}[precision]
        TransformersConverter(made).convert(str(target), quantization=kind)
    return f"{ENCODER}/{target.name}/model.bin"


EXPORTER = Exporter(
    targets={
        "onnx": ("onnxruntime", ("fp32", "int8")),
        # Its int8 has one scale a row, and moves scores over the budget.
        "ctranslate2": ("ctranslate2", ("fp32",)),
    },
    preferred=(("onnxruntime", "fp32"),),
    validate=_validate,
    build=_build,
    timed="8 s of speech, transcribed and graded",
)
