"""Checkpoint -> bundle: load, validate, optimise, save; refused if scores move too far.

load       open the checkpoint or bundle; every hash is checked
validate   every tensor is there, known, of the right shape and finite
optimise   build the graphs of each target; calibrate and round int8
judge      score recordings with every variant and with PyTorch; time a window
save       all or nothing: the folder appears when everything has passed
"""

from __future__ import annotations

import ctypes
import gc
import logging
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio import SAMPLE_RATE_HZ
from asa_engine.bundle import CONFIG_NAME, WEIGHTS_NAME, Bundle, Stages, write_manifest
from asa_engine.errors import BundleError, UsageError
from asa_engine.files import atomic_folder, sha256_file
from asa_engine.graders import DEFAULT_GRADER, grader_entry, grader_names, load_attribute
from asa_engine.nn.kept import keep_loaded
from asa_engine.selection import default_threads
from asa_export.parity import REFERENCE, Parity, Scorer, compare
from asa_export.speech import Recording, Speech
from asa_export.weights import Weights

__all__ = [
    "ExportReport",
    "Exporter",
    "Job",
    "Variant",
    "copy_checkpoint",
    "export",
    "exporter_of",
    "plan",
    "targets_of",
    "whole",
]

CARD_NAME = "MODEL_CARD.md"
REPORT_NAME = "training.json"
LOG = logging.getLogger("asa_export")
"""Says, at level INFO, which step has begun."""
TIMED_RECORDINGS = 4
TIMED_ROUNDS = 9
LONG_ROUND_S = 30
TIMED_SAMPLES = 8 * SAMPLE_RATE_HZ


Variant = tuple[str, str]
"""A backend and a precision."""
Progress = Callable[[Iterable[Recording]], Iterable[Recording]]
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Job(Generic[C]):
    """A bundle to be built.

    Attributes:
        opened: The source.
        config: The grader's configuration.
        work: The folder to write into.
        variants: What is to be made.
        speech: What int8 is calibrated on.
    """

    opened: Bundle
    config: C
    work: Path
    variants: Sequence[Variant]
    speech: Speech


def _score(scorer: Scorer, samples: NDArray[np.float32]) -> None:
    scorer.score(samples)


@dataclass(frozen=True, slots=True)
class Exporter:
    """What is special to one grader's export.

    Attributes:
        targets: Target -> the backend that runs it and the precisions it can have.
        validate: Checks the source and returns the grader's configuration.
        build: Writes every file of the bundle but the manifest and the card into the job's folder,
            and returns the stages they serve.
        needs: Target -> field of `config.json` that must be set for it.
        lacks: Target -> field that must not be set for `make bundles` to take it: it was not judged
            on checkpoints that have one.
        on_request: Variants made only when their precision is named: not known to hold the budget.
        preferred: What `make bundles` makes: the variant that `auto` chose where all were made, or
            the first of these that the checkpoint can have and the budget admits; all variants if
            empty.
        judge: Opens what a variant is judged by instead of its own backend, which may need a
            device that the exporting machine lacks: (bundle, backend, precision) -> stages; `None`
            where the backend itself is judged. Such variants are not timed and `auto` does not
            choose them: 'asa-engine tune' does, on the device.
        timed: What `timed_pass` does, in words.
        timed_pass: What is timed, on eight seconds of speech, to put the variants in order.
    """

    targets: Mapping[str, tuple[str, tuple[str, ...]]]
    validate: Callable[[Bundle], Any]
    build: Callable[[Job[Any]], Stages]
    judge: Callable[[Bundle, str, str], Any] = lambda bundle, backend, precision: None
    needs: Mapping[str, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)
    on_request: tuple[Variant, ...] = ()
    preferred: tuple[Variant, ...] = ()
    timed: str = "8 s of speech"
    timed_pass: Callable[[Scorer, NDArray[np.float32]], None] = _score


def whole(opened: Bundle, config: C, expected: Mapping[str, tuple[int, ...]]) -> C:
    """Return the configuration of a source that holds all tensors, finite.

    Raises:
        CheckpointError: As `Weights.check` does.
    """
    Weights(opened.path / WEIGHTS_NAME).check(expected)
    return config


def copy_checkpoint(opened: Bundle, work: Path, *more: str) -> None:
    """Copy what a bundle keeps of its checkpoint: configuration, weights, training's report."""
    for file in (CONFIG_NAME, WEIGHTS_NAME, REPORT_NAME, *more):
        if (opened.path / file).is_file():
            shutil.copyfile(opened.path / file, work / file)


def exporter_of(grader: str) -> Exporter:
    """Return the exporter of a grader.

    Raises:
        BundleError: There is none.
    """
    if grader not in grader_names() or not (named := grader_entry(grader).exporter):
        raise BundleError(
            f"a grader {grader!r} cannot be exported",
            hint=f"choose from {', '.join(grader_names())}",
        )
    exporter: Exporter = load_attribute(named)
    return exporter


def targets_of(grader: str) -> set[str]:
    """Return what a grader can be exported to; nothing where it has no exporter."""
    try:
        return set(exporter_of(grader).targets)
    except BundleError:
        return set()


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: The bundle.
        name: Its name.
        auto: Variants inside their budget, fastest here first.
        parity: Each variant's comparison with the reference.
        timed: What was timed.
        cpu_ms: Each variant's CPU time for it, one thread, this machine; without the variants of
            other devices.
        bytes: File name -> size.
    """

    path: Path
    name: str
    auto: tuple[Variant, ...]
    parity: tuple[Parity, ...]
    timed: str
    cpu_ms: dict[str, float]
    bytes: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "path": str(self.path),
            "name": self.name,
            "auto": [list(variant) for variant in self.auto],
            "parity": {parity.variant: parity.to_dict() for parity in self.parity},
            "timed": self.timed,
            "cpu_ms": self.cpu_ms,
            "bytes": self.bytes,
        }


def plan(
    targets: Sequence[str], precisions: Sequence[str], grader: str = DEFAULT_GRADER
) -> tuple[Variant, ...]:
    """Return the variants to make; an empty list of precisions means all a target has.

    Those that an exporter makes on request only are left out of an empty list.

    Raises:
        BundleError: The grader cannot be exported.
        UsageError: A target is unknown, or no target has one of the precisions.
    """
    exporter = exporter_of(grader)
    possible = exporter.targets
    for target in targets:
        if target not in possible:
            raise UsageError(
                f"the {grader} grader cannot be exported to {target!r}",
                hint=f"its targets are {', '.join(possible)}",
            )
    chosen = [possible[target] for target in dict.fromkeys(targets)]
    for precision in precisions:
        if not any(precision in levels for _, levels in chosen):
            have = "; ".join(f"{t}: {', '.join(possible[t][1])}" for t in dict.fromkeys(targets))
            raise UsageError(f"no target can have precision {precision!r}", hint=have)
    return tuple(
        (backend, precision)
        for backend, levels in chosen
        for precision in levels
        if precision in precisions
        or (not precisions and (backend, precision) not in exporter.on_request)
    )


@keep_loaded()
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
    finish: Callable[[Bundle], object] | None = None,
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
        finish: Adds files to the bundle once its scores have been found good.

    Raises:
        BundleError: The source is damaged or not a checkpoint.
        CheckpointError: A tensor is missing, unknown, of another shape, or not finite.
        DriftError: A variant is over its budget. Nothing is written.
        UsageError: The target is there already, or cannot be written. Nothing is changed.
    """
    opened = Bundle.open(source)
    exporter = exporter_of(opened.grader)
    LOG.info("load")
    config = exporter.validate(opened)
    speech = speech.heard(config.front)
    if card is not None and not card.is_file():
        raise UsageError(f"there is no model card {card}", hint="check the path")
    name = name or target.absolute().name
    with atomic_folder(target, overwrite=overwrite) as work:
        LOG.info("build")
        stages = exporter.build(Job(opened, config, work, variants, speech))
        _return_memory()
        card = card or opened.path / CARD_NAME
        if card.is_file():
            shutil.copyfile(card, work / CARD_NAME)
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
        scorers = [
            Scorer(candidate, *variant, stages=exporter.judge(candidate, *variant))
            for variant in variants
        ]
        reference = Scorer(opened, *REFERENCE)
        LOG.info("judge on %d recordings", len(speech.judging))
        found = compare(
            reference,
            scorers,
            progress(speech.judging),
            speech.description,
            workers=default_threads(),
        )
        for parity in found:
            parity.check()
        LOG.info("time")
        own = [scorer for scorer in scorers if not scorer.judged_elsewhere]
        cpu_ms = _time(exporter, own, speech.judging)
        timed = [variant for variant in variants if "/".join(variant) in cpu_ms]
        auto = tuple(sorted(timed, key=lambda variant: cpu_ms["/".join(variant)]))
        reports = {
            parity.variant: {
                **parity.to_dict(),
                **_timing(exporter.timed, cpu_ms.get(parity.variant)),
                "measured_with": _measured_with(scorer),
            }
            for parity, scorer in zip(found, scorers, strict=True)
        }
        if finish is not None:
            finish(candidate)
        write(auto=auto, parity=reports)
        sizes = {
            path.relative_to(work).as_posix(): path.stat().st_size
            for path in sorted(work.rglob("*"))
            if path.is_file()
        }
    return ExportReport(target, name, auto, tuple(found), exporter.timed, cpu_ms, sizes)


def _return_memory() -> None:
    """Give the system what the build has freed: glibc keeps gigabytes of a large model's."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _timing(what: str, took_ms: float | None) -> dict[str, Any]:
    return {} if took_ms is None else {"timed": what, "cpu_ms": took_ms}


def _time(
    exporter: Exporter, scorers: Sequence[Scorer], recordings: Sequence[Recording]
) -> dict[str, float]:
    """Time one pass on each variant, taking turns; median CPU time in milliseconds.

    CPU time, so that other work on the machine does not decide what `auto` prefers.
    """
    speech = np.concatenate([recording.samples() for recording in recordings[:TIMED_RECORDINGS]])
    samples = np.resize(speech, TIMED_SAMPLES)
    times: dict[str, list[float]] = {scorer.variant: [] for scorer in scorers}
    for _ in range(1 + TIMED_ROUNDS):
        began = time.process_time()
        for scorer in scorers:
            start = time.process_time()
            exporter.timed_pass(scorer, samples)
            times[scorer.variant].append(1e3 * (time.process_time() - start))
        if time.process_time() - began > LONG_ROUND_S:
            break  # chance counts for little in so much
    return {
        variant: round(statistics.median(taken[1:] or taken), 3) for variant, taken in times.items()
    }


def _measured_with(scorer: Scorer) -> dict[str, str]:
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": "1",
        "asa-engine": metadata.version("asa-engine"),
        **scorer.stages.versions(),
    }
