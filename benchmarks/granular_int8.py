"""What 8 bits do to the multi-granular grader's scores, part by part.

    python benchmarks/granular_int8.py build/bundles/s5-multi-granular train.jsonl --limit 36

The table in the grader's README comes from here. Recordings are read once at float32, which chooses
the sentence's labels; every scheme then runs the same tokens (labels of words and phones: the
highest), and the expected score of every label is compared: 0 to 10 for sentence and words, 0 to 2
for phones. The bundle must hold fp32.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.bundle import Bundle
from asa_engine.features.log_mel import WindowedLogMel
from asa_engine.features.phone_alignment import align
from asa_engine.graders.multi_granular.config import ASPECTS, GRAINS, MultiGranularConfig
from asa_engine.graders.multi_granular.model import MultiGranular
from asa_engine.graders.multi_granular.plan import Written, plan_of, spoken_words, write
from asa_engine.graders.multi_granular.runtime import _Vocabulary
from asa_engine.graders.multi_granular.script import verdict_of_choices
from asa_engine.graders.multi_granular.stages import STAGE_NAMES, MultiGranularStages
from asa_engine.kernels.encoder import PRECISIONS, Encoder
from asa_engine.language_model.decoder import Decoder
from asa_export.graph import MICROSOFT, Graph
from asa_export.language_model import FloatDecoder, decoder_model
from asa_export.language_model_calibrate import calibrate_decoder
from asa_export.language_model_config import DecoderConfig
from asa_export.language_model_quantize import Int8Decoder, round_rows_to_int8
from asa_export.quantize import Calibration
from asa_export.speech import Recording, manifest_speech
from asa_export.weights import Weights

BLOCK = 32
INT8_MAX = 127
ZERO = 128
HIGHEST = 4

Array = NDArray[np.float32]
Rounded = tuple[NDArray[np.int8], Array]
_rounded: dict[str, Rounded] = {}


@dataclass(frozen=True)
class Scheme:
    """A way to run the grader; `layers` and `parts` say where the language model is rounded.

    Attributes:
        encoder: Its precision.
        tokens: Whether rows of the vocabulary are int8.
        how: `float`; `activations` alone in one digit; `one` or `two` digits; `blocks` of 32
            weights and of 32 activations (MatMulNBits).
        layers: Layers that are rounded.
        parts: Ends of the names of layers that are.
    """

    encoder: str = "fp32"
    tokens: bool = False
    how: str = "float"
    layers: range = range(1000)
    parts: tuple[str, ...] = ("",)


SCHEMES = {
    "encoder int8": Scheme("int8"),
    "encoder bf16": Scheme("bf16"),
    "tokens int8": Scheme(tokens=True),
    "activations": Scheme(how="activations"),
    "activations, down_proj": Scheme(how="activations", parts=("down_proj",)),
    "activations, layers 0-2": Scheme(how="activations", layers=range(3)),
    "activations, layers 3-14": Scheme(how="activations", layers=range(3, 15)),
    "activations, layers 15-21": Scheme(how="activations", layers=range(15, 22)),
    "activations, layers 22-27": Scheme(how="activations", layers=range(22, 28)),
    "activations, layers 28-29": Scheme(how="activations", layers=range(28, 30)),
    "one digit": Scheme(how="one"),
    "one digit from layer 6 on": Scheme(how="one", layers=range(6, 1000)),
    "blocks": Scheme(how="blocks"),
    "blocks from layer 6 on": Scheme(how="blocks", layers=range(6, 1000)),
    "two digits": Scheme(how="two"),
    "two digits from layer 3 on": Scheme(how="two", layers=range(3, 1000)),
    "two digits from layer 6 on, encoder bf16": Scheme("bf16", how="two", layers=range(6, 1000)),
    "exported": Scheme(how="two", layers=range(6, 1000)),
    "exported, tokens int8": Scheme(tokens=True, how="two", layers=range(6, 1000)),
}


class Rounding(Int8Decoder):
    """The shipped int8 with parts of it taken away or replaced."""

    def __init__(self, weights: Weights, calibration: Calibration, scheme: Scheme) -> None:
        super().__init__(weights, calibration, digits=2 if scheme.how == "two" else 1)
        self._scheme = scheme

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        """Apply each layer as its scheme says."""
        return [self._one(graph, x, name, names[0]) for name in names]

    def gated(self, graph: Graph, x: str, gate: str, up: str, down: str) -> str:
        """SwiGLU of three such layers."""
        opened, raised = self.apply(graph, x, (gate, up))
        silu = graph.op("QuickGelu", opened, domain=MICROSOFT, alpha=1.0)
        return self._one(graph, graph.op("Mul", silu, raised), down, down)

    def _one(self, graph: Graph, x: str, name: str, first: str) -> str:
        scheme = self._scheme
        if int(name.split(".")[2]) not in scheme.layers or not name.endswith(scheme.parts):
            return graph.op("Gemm", x, graph.constant(self._evened(graph, name)), transB=1)
        if scheme.how == "blocks":
            return self._blocks(graph, x, self._evened(graph, name))
        rows, largest = self._rows(graph, x)
        if scheme.how == "activations":
            step, zero = graph.constant(1 / INT8_MAX), graph.constant(ZERO, np.uint8)
            x = graph.op("Mul", graph.op("DequantizeLinear", rows, step, zero), largest)
            return graph.op("Gemm", x, graph.constant(self._evened(graph, name)), transB=1)
        return graph.op("Mul", self._product(graph, rows, name, first), largest)

    def _round(self, graph: Graph, name: str, first: str) -> Rounded:
        if name not in _rounded:  # GPTQ takes a while, and all schemes round alike
            _rounded[name] = super()._round(graph, name, first)
        return _rounded[name]

    def _evened(self, graph: Graph, name: str) -> Array:
        """Return the weight [N, K] as it is before it is rounded."""
        outputs, inputs = self.scales(f"{name}.weight")
        weight = graph.array(f"{name}.weight") * inputs / outputs.reshape(-1, 1)
        return np.asarray(weight, np.float32)

    def _blocks(self, graph: Graph, x: str, weight: Array) -> str:
        outputs, inputs = weight.shape
        steps, scale = round_rows_to_int8(weight.reshape(-1, BLOCK))
        blocks = steps.reshape(outputs, inputs // BLOCK, BLOCK).astype(np.int16) + ZERO
        return graph.product_in_blocks(x, blocks, scale, shape=weight.shape, bits=8, size=BLOCK)


@dataclass(frozen=True)
class Spoken:
    """One recording: rows by the encoder's precision, where its slots are, its decisions."""

    rows: Mapping[str, Array]
    first: int
    written: Written


def read(
    config: MultiGranularConfig,
    stages: MultiGranularStages,
    encoders: Mapping[str, Encoder],
    recording: Recording,
) -> Spoken | None:
    """Lay the text over the recording; choose the sentence's labels at float32."""
    plan = plan_of(
        config, stages.text, spoken_words(config, stages.lexicon, recording.texts["text"])
    )
    mel = WindowedLogMel(
        config.encoder.n_mels,
        config.window_samples,
        pad_to_window=False,
        min_samples=config.min_window_samples,
    )
    mels = [*mel.push(recording.samples()), mel.finish()]
    chosen: list[int] = []

    def written() -> Written:
        labels = chosen + [HIGHEST] * (len(ASPECTS) + plan.slots - 1 - len(chosen))
        verdict = verdict_of_choices(labels, [word.text for word in plan.words], plan.phones)
        return write(plan, verdict, (), config.end_ids[0])

    rows, first = {}, 0
    for precision, encoder in encoders.items():  # fp32 first
        parts = [encoder.encode([m], config.layer_weights)[0] for m in mels if m is not None]
        frames = np.concatenate(parts)
        heard = stages.hear(frames)
        if (aligned := align(heard, plan.classes, plan.owners)) is None:
            return None
        audio = np.concatenate([stages.audio(part) for part in parts])
        slots = stages.slots(frames, heard, aligned, plan)
        vocabulary = _Vocabulary(stages, slots, config.language_model.vocabulary)
        if not chosen:
            first, done = len(audio), 0
            reading = stages.start(len(config.prefix_ids) + first + len(written().ids))
            reading.extend(audio)
            for index in range(len(ASPECTS)):
                ids, decision = written().ids, written().decisions[index]
                hidden = reading.extend(vocabulary.embed(ids[done : decision.position + 1]))[-1]
                done = decision.position + 1
                chosen.append(int(stages.some(hidden, decision.options).argmax()))
        rows[precision] = np.concatenate((audio, vocabulary.embed(written().ids)))
    return Spoken(rows, first, written())


def scores(
    config: MultiGranularConfig,
    stages: MultiGranularStages,
    decoder: Decoder,
    prefix: Array,
    spoken: Sequence[Spoken],
    scheme: Scheme,
) -> dict[str, list[float]]:
    """Return the expected scores of every grain."""
    trunk = decoder.resume(prefix)
    found: dict[str, list[float]] = {grain: [] for grain in GRAINS}
    for item in spoken:
        rows, first = item.rows[scheme.encoder].copy(), item.first
        if scheme.tokens:
            words = np.array(item.written.ids) < config.language_model.vocabulary
            steps, scale = round_rows_to_int8(rows[first:][words])
            rows[first:][words] = steps * scale[:, None]
        hidden = trunk.fork(trunk.length + len(rows)).extend(rows)
        for decision in item.written.decisions:
            logits = stages.some(hidden[first + decision.position], decision.options)
            powers = np.exp(logits - logits.max())
            points = np.array(config.label_scores[decision.grain])
            found[decision.grain].append(float(powers @ points / powers.sum()))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--limit", type=int, default=36, help="recordings compared")
    parser.add_argument("--calibrate", type=int, default=24, help="recordings calibrated on")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    config = MultiGranularConfig.from_dict(bundle.config)
    files = {name: bundle.file(name, "onnxruntime", "fp32") for name in STAGE_NAMES}
    stages = MultiGranularStages(config, files, precision="fp32", threads=1)
    tensors = Tensors(files["encoder"].with_name("encoder.safetensors"))
    encoders = {
        precision: Encoder(config.encoder, tensors.read, precision=precision)
        for precision in PRECISIONS
    }
    model = MultiGranular.load(args.bundle).language_model.decoder
    shape = DecoderConfig.from_hugging_face(model.config.to_dict())
    prompt = len(config.prefix_ids)
    kept = (2, shape.layers, shape.kv_heads, prompt, shape.head_width)
    prefix = Tensors(files["head"]).read("prefix", kept)
    weights = Weights(files["language_model"].with_name("merged.safetensors"))
    speech = manifest_speech(args.manifest, calibrate=128, limit=args.limit).heard(config.front)
    hear = partial(read, config, stages, encoders)
    spoken = [item for r in speech.judging if (item := hear(r)) is not None]
    others = [item for r in speech.calibration[: args.calibrate] if (item := hear(r)) is not None]
    with tempfile.TemporaryDirectory(dir=weights.path.parent) as folder:
        path = Path(folder) / weights.path.name
        path.hardlink_to(weights.path)
        weights = Weights(path)
        seen = calibrate_decoder(shape, weights, prefix, [item.rows["fp32"] for item in others])
        exact = Decoder.open(files["language_model"], threads=1)
        truth = scores(config, stages, exact, prefix, spoken, Scheme())
        del exact
        columns = "".join(f"{grain:>16}" for grain in GRAINS)
        print(f"{'rms / max':<42}{columns}{'MB':>8}")
        for name in args.schemes:
            scheme = SCHEMES[name]
            linears = FloatDecoder() if scheme.how == "float" else Rounding(weights, seen, scheme)
            graph = path.with_name("scheme.onnx")
            positions = config.language_model.positions
            onnx.save(decoder_model(shape, weights, linears, positions=positions), graph)
            decoder = Decoder.open(graph, threads=1)
            got = scores(config, stages, decoder, prefix, spoken, scheme)
            change = [np.subtract(got[grain], truth[grain]) for grain in GRAINS]
            cells = [f"{np.sqrt(np.mean(c**2)):.4f} / {np.abs(c).max():.3f}" for c in change]
            print(f"{name:<42}" + "".join(f"{cell:>16}" for cell in cells), end="")
            print(f"{graph.stat().st_size / 1e6:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
