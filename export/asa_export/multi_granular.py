"""Export of the multi-granular grader: adapters merged, encoder, language model, small parts.

The language model keeps its embedding table and its vocabulary projection, for it writes text;
labels are compared in float32 in every variant, on the few rows that they begin with.
The encoder is float32 in both: a graph at fp32, at int8 the kernels on its weights.

The score of a sentence hangs on one slot and on all that is added up before it, so int8 is finer
than elsewhere: activations have two digits, and the first layers, whose errors all others carry
on, are float32. What each is worth stands in the grader's README.
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
from asa_engine.features.phone_alignment import align
from asa_engine.graders.multi_granular.config import MultiGranularConfig
from asa_engine.graders.multi_granular.model import LEXICON_NAME, MultiGranular
from asa_engine.graders.multi_granular.plan import plan_of, spoken_words, write
from asa_engine.graders.multi_granular.script import verdict_of_choices
from asa_engine.graders.multi_granular.stages import (
    STAGE_NAMES,
    TorchStages,
    label_ids,
    small_shapes,
)
from asa_engine.graders.multi_granular.verdict import LABELS
from asa_engine.graders.speech_llm.config import SAMPLES_PER_FRAME
from asa_engine.graders.windows import log_mel_windows
from asa_engine.language_model.base import CausalModel
from asa_engine.text import Lexicon
from asa_export.exporter import Exporter, Job, copy_checkpoint
from asa_export.language_model import (
    TOKENS,
    VOCABULARY,
    DecoderLinears,
    FloatDecoder,
    tokens_model,
    vocabulary_model,
)
from asa_export.language_model_files import (
    FOLDER,
    DecoderFiles,
    halved,
    state_of,
    write_tensors,
)
from asa_export.language_model_quantize import Int8Decoder
from asa_export.onnx import FloatLinears, frames_model
from asa_export.parity import REFERENCE, Scorer
from asa_export.speech import Recording
from asa_export.weights import Weights

__all__ = ["EXPORTER"]

ENCODER: Final = "encoder.safetensors"
ENCODER_GRAPH: Final = "encoder.onnx"
HEAD: Final = "head.safetensors"
TOKENIZER: Final = "tokenizer.json"
ROWS: Final = "tokens.safetensors"
CALIBRATED: Final = 24
"""Recordings that int8 is calibrated on."""
DIGITS: Final = 2
EXACT_LAYERS: Final = 6
TIMED_TOKENS: Final = 32


def _validate(opened: Bundle) -> MultiGranularConfig:
    """Check that the source holds a whole, finite grader and its lexicon."""
    config = MultiGranular.load(opened.path).config
    Lexicon.read([opened.path / LEXICON_NAME])
    return config


def _build(job: Job[MultiGranularConfig]) -> Stages:
    """Write every artifact; return the stages that they serve."""
    opened, config, work, variants = job.opened, job.config, job.work, job.variants
    copy_checkpoint(opened, work, LEXICON_NAME)
    grader = MultiGranular.load(opened.path)
    (work / TOKENIZER).write_text(grader.tokens.description, encoding="utf-8")
    write_tensors(work / ENCODER, {k: halved(v) for k, v in grader.encoder.state_dict().items()})

    model = grader.language_model
    tables = {TOKENS: model.decoder.state_dict()[TOKENS.removeprefix("model.")]}
    if not model.decoder.config.tie_word_embeddings:
        tables[VOCABULARY] = model.output.weight
    decoder = DecoderFiles(model, work, positions=config.language_model.positions, tables=tables)
    decoder.check(variants)
    shape, weights = decoder.shape, decoder.weights
    head = _head(grader, decoder.exact())
    write_tensors(work / HEAD, head)
    stages: Stages = {"grader": {REFERENCE[0]: {REFERENCE[1]: WEIGHTS_NAME}}}
    for backend, precision in variants:
        linears: DecoderLinears = FloatDecoder()
        rows = weights
        if precision == "int8":
            lexicon = Lexicon.read([work / LEXICON_NAME])
            sequences = _sequences(grader, lexicon, job.speech.calibration[:CALIBRATED])
            inputs = decoder.calibrate(head["prefix"].numpy(), list(sequences))
            linears = Int8Decoder(weights, inputs, digits=DIGITS, exact_layers=EXACT_LAYERS)
            # Mapped, not read: a recording touches a few hundred of its rows.
            write_tensors(work / FOLDER / ROWS, {TOKENS: tables[TOKENS].half()})
            rows = Weights(work / FOLDER / ROWS)
        encoder = ENCODER
        if precision == "fp32":
            onnx.save(_encoder_model(config, Weights(work / ENCODER)), work / ENCODER_GRAPH)
            encoder = ENCODER_GRAPH
        files = {"encoder": encoder, "head": HEAD, "tokenizer": TOKENIZER, "lexicon": LEXICON_NAME}
        files["language_model"] = decoder.write(precision, linears)
        for name, graph in (
            ("tokens", tokens_model(shape, rows, linears)),
            ("vocabulary", vocabulary_model(shape, weights, linears)),
        ):
            files[name] = f"{FOLDER}/{precision}.{name}.onnx"
            onnx.save(graph, work / files[name])
        for name in STAGE_NAMES:
            stages.setdefault(name, {}).setdefault(backend, {})[precision] = files[name]
    unread = "fp32" not in (precision for _, precision in variants)
    decoder.remove(graph=unread, tensors=unread)
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


def _head(grader: MultiGranular, decoder: CausalModel) -> dict[str, Tensor]:
    """Return what is read beside the graphs: small parts, prompt's beginning, rows of labels."""
    model, config = grader.language_model, grader.config
    prefix = model.embed(torch.tensor(config.prefix_ids, dtype=torch.long))
    tuned = grader.tuned()
    return {
        **{name: tuned[name] for name in small_shapes(config)},
        "prefix": torch.from_numpy(state_of(decoder, prefix)),
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
    windows = log_mel_windows(config)
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


EXPORTER = Exporter(
    targets={"onnx": ("onnxruntime", ("fp32", "int8"))},
    # Scores hold their budget, but their correlation with the experts on 100 recordings does not.
    on_request=(("onnxruntime", "int8"),),
    preferred=(("onnxruntime", "fp32"),),
    validate=_validate,
    build=_build,
    timed=f"8 s of speech encoded and read, {TIMED_TOKENS} tokens written",
    timed_pass=_read_and_write,
)
