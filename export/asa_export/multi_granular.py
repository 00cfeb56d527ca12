"""Export of the multi-granular grader: adapters merged, encoder, language model, small parts.

The language model keeps its embedding table and its vocabulary projection, for it writes text;
labels are compared in float32 in every variant, on the few rows that they begin with.
The encoder is float32 in both: a graph at fp32, at int8 the kernels on its weights.

The score of a sentence hangs on one slot and on all that is added up before it, so int8 is finer
than elsewhere: activations have two digits, and the first layers, whose errors all others carry
on, are float32. What each is worth stands in the grader's README.
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
from asa_engine.features.log_mel import WindowedLogMel
from asa_engine.graders.multi_granular.alignment import align
from asa_engine.graders.multi_granular.config import MultiGranularConfig
from asa_engine.graders.multi_granular.lexicon import Lexicon
from asa_engine.graders.multi_granular.model import LEXICON_NAME, MultiGranular, lexicon_paths
from asa_engine.graders.multi_granular.plan import plan_of, spoken_words, write
from asa_engine.graders.multi_granular.stages import (
    STAGE_NAMES,
    TorchStages,
    label_ids,
    small_shapes,
)
from asa_engine.graders.speech_llm.config import SAMPLES_PER_FRAME
from asa_engine.graders.speech_llm.script import verdict_of_choices
from asa_engine.graders.speech_llm.verdict import LABELS
from asa_engine.language_model.decoder import Decoder
from asa_engine.nn.lora import merge_lora
from asa_export.exporter import Exporter, Variant
from asa_export.language_model import (
    TOKENS,
    VOCABULARY,
    DecoderLinears,
    FloatDecoder,
    decoder_model,
    decoder_tensors,
    tokens_model,
    vocabulary_model,
)
from asa_export.language_model_calibrate import calibrate_decoder
from asa_export.language_model_config import DecoderConfig
from asa_export.language_model_quantize import Int8Decoder
from asa_export.onnx import FloatLinears, frames_model
from asa_export.parity import REFERENCE, Scorer
from asa_export.speech import Recording, Speech
from asa_export.weights import Weights

__all__ = ["EXPORTER"]

ENCODER: Final = "encoder.safetensors"
ENCODER_GRAPH: Final = "encoder.onnx"
HEAD: Final = "head.safetensors"
TOKENIZER: Final = "tokenizer.json"
FOLDER: Final = "language_model"
MERGED: Final = "merged.safetensors"
ROWS: Final = "tokens.safetensors"
REPORT: Final = "training.json"
CALIBRATED: Final = 24
"""Recordings that int8 is calibrated on."""
DIGITS: Final = 2
EXACT_LAYERS: Final = 6
TIMED_TOKENS: Final = 32


def _validate(opened: Bundle) -> MultiGranularConfig:
    """Check that the source holds a whole, finite grader and its dictionaries."""
    config = MultiGranular.load(opened.path).config
    Lexicon.read(lexicon_paths(opened.path, config))
    return config


def _build(
    opened: Bundle,
    config: MultiGranularConfig,
    work: Path,
    variants: Sequence[Variant],
    speech: Speech,
) -> Stages:
    """Write every artifact; return the stages that they serve."""
    for file in (CONFIG_NAME, WEIGHTS_NAME, REPORT):
        if (opened.path / file).is_file():
            shutil.copyfile(opened.path / file, work / file)
    paths = lexicon_paths(opened.path, config)
    texts = [path.read_text(encoding="utf-8") for path in paths]
    # A bundle's own dictionary is the whole of them: exported again it stays what it is.
    whole = texts[0] if texts[0].endswith(texts[-1]) else "".join(texts)
    (work / LEXICON_NAME).write_text(whole, encoding="utf-8")
    grader = MultiGranular.load(opened.path)
    (work / TOKENIZER).write_text(grader.tokens.description, encoding="utf-8")
    merge_lora(grader.language_model)
    _write(work / ENCODER, {k: _halved(v) for k, v in grader.encoder.state_dict().items()})

    folder = work / FOLDER
    folder.mkdir()
    shape = DecoderConfig.from_hugging_face(grader.language_model.decoder.config.to_dict())
    state = grader.language_model.decoder.state_dict()
    names = decoder_tensors(shape).keys() - {VOCABULARY}
    tensors = {name: state[name.removeprefix("model.")] for name in names}
    if not shape.tied:
        tensors[VOCABULARY] = grader.language_model.output.weight
    _write(folder / MERGED, tensors)
    weights = Weights(folder / MERGED)
    positions = config.language_model.positions
    fp32 = folder / "fp32.onnx"
    onnx.save(decoder_model(shape, weights, FloatDecoder(), positions=positions), fp32)
    head = _head(grader, Decoder.open(fp32, threads=1))
    _write(work / HEAD, head)
    stages: Stages = {"grader": {REFERENCE[0]: {REFERENCE[1]: WEIGHTS_NAME}}}
    for backend, precision in variants:
        linears: DecoderLinears = FloatDecoder()
        rows = weights
        if precision == "int8":
            lexicon = Lexicon.read([work / LEXICON_NAME])
            sequences = _sequences(grader, lexicon, speech.calibration[:CALIBRATED])
            found = calibrate_decoder(shape, weights, head["prefix"].numpy(), sequences)
            linears = Int8Decoder(weights, found, digits=DIGITS, exact_layers=EXACT_LAYERS)
            # Mapped, not read: a recording touches a few hundred of its rows.
            _write(folder / ROWS, {TOKENS: tensors[TOKENS].half()})
            rows = Weights(folder / ROWS)
        graphs = {
            "language_model": decoder_model(shape, weights, linears, positions=positions),
            "tokens": tokens_model(shape, rows, linears),
            "vocabulary": vocabulary_model(shape, weights, linears),
        }
        encoder = ENCODER
        if precision == "fp32":
            onnx.save(_encoder_model(config, Weights(work / ENCODER)), work / ENCODER_GRAPH)
            encoder = ENCODER_GRAPH
        files = {"encoder": encoder, "head": HEAD, "tokenizer": TOKENIZER, "lexicon": LEXICON_NAME}
        for name, graph in graphs.items():
            suffix = "" if name == "language_model" else f".{name}"
            files[name] = f"{FOLDER}/{precision}{suffix}.onnx"
            onnx.save(graph, work / files[name])
        for name in STAGE_NAMES:
            stages.setdefault(name, {}).setdefault(backend, {})[precision] = files[name]
    if "fp32" not in (precision for _, precision in variants):
        fp32.unlink()
        (folder / MERGED).unlink()
    return stages


def _encoder_model(config: MultiGranularConfig, weights: Weights) -> onnx.ModelProto:
    """Build the encoder of windows, its weights left in their file."""
    return frames_model(
        config.encoder,
        weights,
        FloatLinears(),
        positions=config.window_samples // SAMPLES_PER_FRAME,
        mix=config.layer_weights,
    )


def _head(grader: MultiGranular, decoder: Decoder) -> dict[str, Tensor]:
    """Return what is read beside the graphs: small parts, prompt's beginning, rows of labels."""
    model, config = grader.language_model, grader.config
    sequence = decoder.start(len(config.prefix_ids))
    prefix = model.embed(torch.tensor(config.prefix_ids, dtype=torch.long))
    sequence.extend(prefix.detach().numpy())
    tuned = grader.tuned()
    return {
        **{name: tuned[name] for name in small_shapes(config)},
        "prefix": torch.from_numpy(sequence.state()),
        "labels": model.output.weight[list(label_ids(grader.tokens))],
    }


@torch.inference_mode()
def _sequences(
    grader: MultiGranular, lexicon: Lexicon, recordings: Iterable[Recording]
) -> Iterator[NDArray[np.float32]]:
    """Yield what follows the prompt's beginning, [n, W], for recordings that have a text.

    Every label is the highest: most are.
    """
    config, stages = grader.config, TorchStages(grader, lexicon)
    for recording in recordings:
        if "text" not in recording.texts:
            continue
        plan = plan_of(
            config, grader.tokens, spoken_words(config, lexicon, recording.texts["text"])
        )
        mels = _windows(config, recording.samples())
        parts = [stages.frames(mel) for mel in mels]
        if not parts:
            continue
        frames = np.concatenate(parts)
        heard = stages.hear(frames)
        if (aligned := align(heard, plan.classes, plan.owners)) is None:
            continue
        slots = torch.from_numpy(stages.slots(frames, heard, aligned, plan))
        audio = np.concatenate([stages.audio(part) for part in parts])
        choices = [len(LABELS) - 1] * (len(plan.words) + len(plan.phones) + 3)
        verdict = verdict_of_choices(choices, [word.text for word in plan.words], plan.phones)
        written = write(plan, verdict, (), config.end_ids[0])
        rows: NDArray[np.float32] = grader.embed(written.ids, slots).numpy()
        yield np.concatenate((audio, rows))


def _windows(
    config: MultiGranularConfig, samples: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    windows = WindowedLogMel(
        config.encoder.n_mels,
        config.window_samples,
        pad_to_window=False,
        min_samples=config.min_window_samples,
    )
    mels = windows.push(samples)
    return mels if (rest := windows.finish()) is None else [*mels, rest]


def _read_and_write(scorer: Scorer, samples: NDArray[np.float32]) -> None:
    """Encode and prefill a recording, then run single tokens: what a verdict costs."""
    config, stages = scorer.config, scorer.stages
    prompt = len(config.prefix_ids) + config.max_audio_tokens
    reading = stages.start(prompt + TIMED_TOKENS)
    for mel in _windows(config, samples[: config.max_samples]):
        reading.extend(stages.audio(stages.frames(mel)))
    token = stages.embed(config.end_ids[:1])
    for _ in range(TIMED_TOKENS):
        stages.all(reading.extend(token)[-1])


def _halved(value: Tensor) -> Tensor:
    """Return float16 where that loses nothing: published encoders are stored so."""
    half = value.half()
    return half if torch.equal(half.float(), value) else value


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    state = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    path.write_bytes(save(state))


EXPORTER = Exporter(
    targets={"onnx": ("onnxruntime", ("fp32", "int8"))},
    # Scores hold their budget, but their correlation with the experts on 100 recordings does not.
    on_request=(("onnxruntime", "int8"),),
    validate=_validate,
    build=_build,
    timed=f"8 s of speech encoded and read, {TIMED_TOKENS} tokens written",
    timed_pass=_read_and_write,
)
