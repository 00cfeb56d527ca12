"""Checkpoint -> bundle: load, validate, optimise, save; refused if scores move too far.

load       open the checkpoint or bundle; every hash is checked
validate   every tensor is there, known, of the right shape and finite
optimise   build the graphs of each target; calibrate and round int8
judge      score recordings with every variant and with PyTorch; time a window
save       all or nothing: the folder appears when everything has passed
"""

from __future__ import annotations

import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from asa_engine.bundle import CONFIG_NAME, WEIGHTS_NAME, Bundle, Stages, write_manifest
from asa_engine.errors import BundleError, UsageError
from asa_engine.features.log_mel import WindowedLogMel
from asa_engine.files import atomic_folder, sha256_file
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_export.onnx import FloatLinears, encoder_model, head_model
from asa_export.parity import REFERENCE, Parity, Scorer, compare
from asa_export.quantize import Int8Linears, calibrate
from asa_export.speech import Recording, Speech
from asa_export.tensors import expected_tensors
from asa_export.weights import Weights

__all__ = ["TARGETS", "ExportReport", "Variant", "export", "plan", "windows_of"]

CARD_NAME = "MODEL_CARD.md"
HEAD_NAME = "head.onnx"
TARGETS = {
    "onnx": ("onnxruntime", ("fp32", "int8")),
    "native": ("native", ("fp32", "bf16", "int8")),
}
"""Target -> the backend that runs it and the precisions it can have."""
TIMED_RECORDINGS = 4
TIMED_ROUNDS = 9

Variant = tuple[str, str]
"""A backend and a precision."""
Progress = Callable[[Iterable[Recording]], Iterable[Recording]]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: The bundle.
        name: Its name.
        auto: Variants inside their budget, fastest here first.
        parity: Each variant's comparison with the reference.
        window_ms: Each variant's CPU time for one full window, one thread, this machine.
        bytes: File name -> size.
    """

    path: Path
    name: str
    auto: tuple[Variant, ...]
    parity: tuple[Parity, ...]
    window_ms: dict[str, float]
    bytes: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "path": str(self.path),
            "name": self.name,
            "auto": [list(variant) for variant in self.auto],
            "parity": {parity.variant: parity.to_dict() for parity in self.parity},
            "window_ms": self.window_ms,
            "bytes": self.bytes,
        }


def plan(targets: Sequence[str], precisions: Sequence[str]) -> tuple[Variant, ...]:
    """Return the variants to make; an empty list of precisions means all a target has.

    Raises:
        UsageError: A target is unknown, or no target has one of the precisions.
    """
    for target in targets:
        if target not in TARGETS:
            raise UsageError(
                f"the acoustic grader cannot be exported to {target!r}",
                mend=f"its targets are {', '.join(TARGETS)}",
            )
    chosen = [TARGETS[target] for target in dict.fromkeys(targets)]
    for precision in precisions:
        if not any(precision in possible for _, possible in chosen):
            have = "; ".join(f"{t}: {', '.join(TARGETS[t][1])}" for t in dict.fromkeys(targets))
            raise UsageError(f"no target can have precision {precision!r}", mend=have)
    return tuple(
        (backend, precision)
        for backend, possible in chosen
        for precision in possible
        if not precisions or precision in precisions
    )


def export(
    source: Path,
    target: Path,
    variants: Sequence[Variant],
    speech: Speech,
    *,
    name: str = "",
    card: Path | None = None,
    overwrite: bool = False,
    progress: Progress = iter,
) -> ExportReport:
    """Make a bundle of a checkpoint.

    Args:
        source: A checkpoint folder, or a bundle, which holds its checkpoint.
        target: The folder to make.
        variants: What `plan` returned.
        speech: What int8 is calibrated on and the scores are compared on.
        name: What the bundle calls itself; the folder's name if empty.
        card: The model card to put in; by default the source's own, if it has one.
        overwrite: Replace what stands at `target`.
        progress: Wraps the iteration over recordings.

    Raises:
        BundleError: The source is damaged or not a checkpoint.
        CheckpointError: A tensor is missing, unknown, of another shape, or not finite.
        DriftError: A variant is over its budget. Nothing is written.
        UsageError: The target is there already, or cannot be written. Nothing is changed.
    """
    opened = Bundle.open(source)
    config = _validate(opened)
    if card is not None and not card.is_file():
        raise UsageError(f"there is no model card {card}", mend="check the path")
    name = name or target.absolute().name
    with atomic_folder(target, overwrite=overwrite) as work:
        for file in (CONFIG_NAME, WEIGHTS_NAME):
            shutil.copyfile(opened.path / file, work / file)
        card = card or opened.path / CARD_NAME
        if card.is_file():
            shutil.copyfile(card, work / CARD_NAME)
        stages = _optimise(config, work, variants, speech)
        write = partial(
            write_manifest,
            work,
            name=name,
            version=sha256_file(work / WEIGHTS_NAME)[:12],
            grader=opened.grader,
            stages=stages,
        )
        write(auto=(), parity={})
        candidate = Bundle.open(work)
        scorers = [Scorer(candidate, *variant) for variant in variants]
        reference = Scorer(opened, *REFERENCE)
        found = compare(reference, scorers, progress(speech.judging), speech.description)
        for parity in found:
            parity.check()
        window_ms = _time_windows(config, scorers, speech.judging)
        auto = tuple(sorted(variants, key=lambda variant: window_ms["/".join(variant)]))
        reports = {
            parity.variant: {
                **parity.to_dict(),
                "window_ms": window_ms[parity.variant],
                "measured_with": _measured_with(scorer),
            }
            for parity, scorer in zip(found, scorers, strict=True)
        }
        write(auto=auto, parity=reports)
        sizes = {path.name: path.stat().st_size for path in sorted(work.iterdir())}
    return ExportReport(
        target, name or target.absolute().name, auto, tuple(found), window_ms, sizes
    )


def _validate(opened: Bundle) -> AcousticConfig:
    """Check that the source holds a whole, finite acoustic grader."""
    if opened.grader != "acoustic":
        raise BundleError(
            f"{opened.path} holds a grader {opened.grader!r}", mend="only acoustic is exported"
        )
    config = AcousticConfig.from_dict(opened.config)
    Weights(opened.path / WEIGHTS_NAME).check(expected_tensors(config))
    return config


def _optimise(
    config: AcousticConfig, work: Path, variants: Sequence[Variant], speech: Speech
) -> Stages:
    """Write every artifact; return the stages that they serve."""
    stages: Stages = {"grader": {REFERENCE[0]: {REFERENCE[1]: WEIGHTS_NAME}}}
    weights = Weights(work / WEIGHTS_NAME)
    for backend, precision in variants:
        if backend == "native":
            # The kernels pack the checkpoint's own weights when they load them.
            stages["grader"].setdefault(backend, {})[precision] = WEIGHTS_NAME
            continue
        linears: FloatLinears | Int8Linears = FloatLinears()
        if precision == "int8":
            windows = windows_of(config, speech.calibration)
            linears = Int8Linears(config, weights, calibrate(config, weights, windows))
        encoder = f"encoder.{precision}.onnx"
        onnx.save(encoder_model(config, weights, linears), work / encoder)
        onnx.save(head_model(config, weights), work / HEAD_NAME)
        stages.setdefault("encoder", {}).setdefault(backend, {})[precision] = encoder
        stages.setdefault("head", {}).setdefault(backend, {})[precision] = HEAD_NAME
    return stages


def windows_of(
    config: AcousticConfig, recordings: Iterable[Recording]
) -> Iterable[NDArray[np.float32]]:
    """Yield the log-mel of every window of the recordings, as the engine would cut them."""
    for recording in recordings:
        windows = WindowedLogMel(
            config.encoder.n_mels,
            config.window_samples,
            pad_to_window=config.window_padding == "full",
            min_samples=config.min_window_samples,
        )
        yield from windows.push(recording.samples())
        if (rest := windows.finish()) is not None:
            yield rest


def _time_windows(
    config: AcousticConfig, scorers: Sequence[Scorer], recordings: Sequence[Recording]
) -> dict[str, float]:
    """Time one full window on each variant, taking turns; median CPU time in milliseconds.

    CPU time, so that other work on the machine does not decide what `auto` prefers.
    """
    speech = np.concatenate([recording.samples() for recording in recordings[:TIMED_RECORDINGS]])
    samples = np.resize(speech, config.window_samples)
    (mel,) = windows_of(config, [Recording("timing", samples)])
    times: dict[str, list[float]] = {scorer.variant: [] for scorer in scorers}
    for _ in range(1 + TIMED_ROUNDS):
        for scorer in scorers:
            start = time.process_time()
            scorer.backend.encode(mel)
            times[scorer.variant].append(1e3 * (time.process_time() - start))
    return {variant: round(statistics.median(taken[1:]), 3) for variant, taken in times.items()}


def _measured_with(scorer: Scorer) -> dict[str, str]:
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": "1",
        "asa-engine": metadata.version("asa-engine"),
        **scorer.backend.versions(),
    }
