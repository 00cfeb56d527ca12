"""Ways to run the encoder's linear layers in int8: error, score drift and time of each.

    python benchmarks/int8_schemes.py runs/acoustic train.jsonl --limit 60

The table in docs/export.md comes from here. Times are CPU times of one full window at one thread,
medians over rounds in which all schemes take turns; PyTorch and ONNX Runtime in float32 take part.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from asa_engine.bundle import Bundle
from asa_engine.evaluation.metrics import pcc
from asa_engine.graders.acoustic.backends.onnxruntime import OnnxRuntimeBackend
from asa_engine.graders.acoustic.backends.torch import TorchBackend
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_export.acoustic import windows_of
from asa_export.graph import Graph
from asa_export.onnx import FloatLinears, Linears, encoder_model, head_model
from asa_export.quantize import Calibration, Int8Linears, calibrate, round_to_int8
from asa_export.speech import Recording, manifest_speech
from asa_export.weights import Weights

ROUNDS = 15
_rounded: dict[tuple[Any, ...], Any] = {}

Rounded = tuple[NDArray[np.int8], NDArray[np.float32]]


class Scheme(Int8Linears):
    """The shipped scheme with parts of it taken away or replaced."""

    compensate = True
    smoothing = 0.6
    in_float: tuple[str, ...] = ()

    def __init__(self, config: AcousticConfig, weights: Weights, calibration: Calibration) -> None:
        super().__init__(config, weights, calibration, self.smoothing)
        if not self.smoothing:
            divisors = (self._norm_divisors, self._input_divisors, self._output_divisors)
            for table in divisors:
                table.update({name: np.ones_like(value) for name, value in table.items()})

    def round(self, names: tuple[str, ...], weight: Any, moment: Any) -> Rounded:
        key = (names, self.compensate, self.smoothing)
        if key not in _rounded:
            diagonal = np.diag(np.diag(moment))  # without correlations: to the nearest
            _rounded[key] = round_to_int8(weight, moment if self.compensate else diagonal)
        return _rounded[key]  # type: ignore[no-any-return]

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        if not names[0].endswith(self.in_float or ("none",)):
            return super().apply(graph, x, names)
        divisors = self._input_divisors.get(names[0])
        results = []
        for name in names:
            matrix = self._matrix(name) * (1 if divisors is None else divisors[:, None])
            bias = self._bias(name)
            inputs = [graph.constant(matrix), *([] if bias is None else [graph.constant(bias)])]
            results.append(graph.op("Gemm", x, *inputs))
        return results


class Naive(Scheme):
    compensate, smoothing = False, 0.0


class Equalised(Scheme):
    compensate = False


class Compensated(Scheme):
    smoothing = 0.0


class FloatFc2(Scheme):
    in_float = ("fc2",)


class FloatProjections(Scheme):
    in_float = ("q_proj",)


class FloatStem(Scheme):
    in_float = ("conv1", "conv2")


class Static(Scheme):
    """Activation ranges fixed at calibration, at a percentile of the values seen."""

    percentile = 99.999

    def __init__(
        self,
        config: AcousticConfig,
        weights: Weights,
        calibration: Calibration,
        mels: Sequence[NDArray[np.float32]],
    ) -> None:
        super().__init__(config, weights, calibration)
        self._ranges: dict[str, tuple[float, float]] = {}
        self._probes: list[str] = []
        path = weights.path.with_name("static-probe.onnx")
        onnx.save(encoder_model(config, weights, self), path)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        seen: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self._probes}
        for mel in mels:
            for name, x in zip(
                self._probes, session.run(self._probes, {"mel": mel[None]}), strict=True
            ):
                seen[name].append(x[::8].ravel())
        for name, values in seen.items():
            ends = np.percentile(np.concatenate(values), [100 - self.percentile, self.percentile])
            self._ranges[name] = float(min(ends[0], 0)), float(max(ends[1], 0))

    def quantise_rows(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        if names[0] not in self._ranges:
            self._probes.append(names[0])
            graph.output(x, names[0], ["rows", "channels"])
            return super().quantise_rows(graph, x, names)
        low, high = self._ranges[names[0]]
        scale = graph.constant(np.float32((high - low) / 255))
        zero = graph.constant(round(-low / (high - low) * 255), np.uint8)
        return [graph.op("QuantizeLinear", x, scale, zero), scale, zero]


class Static9999(Static):
    percentile = 99.99


class Blocks(Scheme):
    """MatMulNBits: 8 bits, a scale for every 128 inputs of weights and of each row."""

    block = 128
    compensate = False

    def apply(self, graph: Graph, x: str, names: tuple[str, ...]) -> list[str]:
        divisors = self._input_divisors.get(names[0])
        results = []
        for name in names:
            matrix = self._matrix(name) * (1 if divisors is None else divisors[:, None])
            channels, width = matrix.shape
            block = self.block if channels % self.block == 0 else 16
            blocks = matrix.T.reshape(width, channels // block, block)
            scales = np.abs(blocks).max(axis=-1) / 127
            packed = np.round(blocks / scales[..., None]) + 128
            y = graph.product_in_blocks(
                x, packed, scales, shape=(width, channels), bits=8, size=block
            )
            bias = self._bias(name)
            results.append(y if bias is None else graph.op("Add", y, graph.constant(bias)))
        return results


DYNAMIC: dict[str, type[Scheme]] = {
    "dynamic, nearest": Naive,
    "dynamic, equalised": Equalised,
    "dynamic, compensated": Compensated,
    "dynamic, both (shipped)": Scheme,
    "both, q k v in float": FloatProjections,
    "both, fc2 in float": FloatFc2,
    "both, stem in float": FloatStem,
    "MatMulNBits 8, equalised": Blocks,
}
STATIC: dict[str, type[Static]] = {"static 99.999 %": Static, "static 99.99 %": Static9999}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--limit", type=int, default=60, help="recordings to judge on")
    parser.add_argument("--calibrate", type=int, default=128, help="recordings to calibrate on")
    args = parser.parse_args()
    speech = manifest_speech(args.manifest, calibrate=args.calibrate, limit=args.limit)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(args.checkpoint, Path(scratch) / "work"))
        config = AcousticConfig.load(folder)
        speech = speech.heard(config.front)
        weights = Weights(folder / "weights.safetensors")
        mels = list(windows_of(config, speech.calibration))
        calibration = calibrate(config, weights, mels)
        onnx.save(head_model(config, weights), folder / "head.onnx")
        backends: dict[str, Any] = {
            "PyTorch fp32": TorchBackend.open(Bundle.open(folder), precision="fp32", threads=1),
            "fp32": _open(config, weights, FloatLinears(), "fp32"),
        }
        for name, scheme in DYNAMIC.items():
            backends[name] = _open(config, weights, scheme(config, weights, calibration), name)
        for name, static in STATIC.items():
            linears = static(config, weights, calibration, mels)
            backends[name] = _open(config, weights, linears, name)
        _report(config, backends, speech.judging)


def _open(config: AcousticConfig, weights: Weights, linears: Linears, name: str) -> Any:
    folder = weights.path.parent
    path = folder / f"{''.join(c if c.isalnum() else '-' for c in name)}.onnx"
    onnx.save(encoder_model(config, weights, linears), path)
    return OnnxRuntimeBackend(path, folder / "head.onnx", precision="int8", threads=1)


def _report(
    config: AcousticConfig, backends: dict[str, Any], recordings: Sequence[Recording]
) -> None:
    scores: dict[str, list[Any]] = {name: [] for name in backends}
    errors: dict[str, list[float]] = {name: [] for name in backends}
    powers: list[float] = []
    for recording in recordings:
        sums: dict[str, Any] = dict.fromkeys(backends, 0.0)
        for mel in windows_of(config, [recording]):
            truth = None
            for name, backend in backends.items():
                encoded = backend.encode(mel, frames=True)
                sums[name] = sums[name] + encoded.stats.astype(np.float64)
                truth = encoded.frames if truth is None else truth
                errors[name].append(float(np.sum((encoded.frames - truth) ** 2)))
            powers.append(float(np.sum(np.square(truth))))
        for name, backend in backends.items():
            scores[name].append(backend.head(sums[name].astype(np.float32)).scores)
    window = max(
        (mel for r in recordings for mel in windows_of(config, [r])), key=lambda mel: mel.shape[1]
    )
    times = _times(backends, window)
    truth = np.array(scores["PyTorch fp32"], dtype=np.float64)
    experts = np.array([[r.scores[a.name] for a in config.aspects] for r in recordings])
    print(f"{len(recordings)} recordings, {len(powers)} windows; one of {window.shape[1]} timed")
    print(
        f"| {'scheme':<26} | frames error | RMS | max | largest PCC change | ms | PyTorch / it |\n"
        f"|{'-' * 28}|---:|---:|---:|---:|---:|---:|"
    )
    for name in backends:
        found = np.array(scores[name], dtype=np.float64)
        change = found - truth
        moved = [
            pcc(found[:, i], experts[:, i]) - pcc(truth[:, i], experts[:, i])
            for i in range(truth.shape[1])
        ]
        print(
            f"| {name:<26} | {100 * np.sqrt(sum(errors[name]) / sum(powers)):.2f} % "
            f"| {np.sqrt(np.mean(change**2, axis=0)).max():.4f} | {np.abs(change).max():.3f} "
            f"| {max(moved, key=abs):+.4f} | {times[name]:.1f} "
            f"| {times['PyTorch fp32'] / times[name]:.2f} |"
        )


def _times(backends: dict[str, Any], mel: NDArray[np.float32]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in backends}
    for _ in range(1 + ROUNDS):
        for name, backend in backends.items():
            start = time.process_time()
            backend.encode(mel)
            taken[name].append(1e3 * (time.process_time() - start))
    return {name: float(np.median(each[1:])) for name, each in taken.items()}


if __name__ == "__main__":
    main()
