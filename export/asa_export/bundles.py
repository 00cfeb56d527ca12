"""Make a bundle of every checkpoint in a folder: fetch its backbones, export, judge.

    python -m asa_export.bundles models build/bundles [MANIFEST] [--only NAME ...]
        [--precision fp32,int8 | all] [--force]

A bundle holds the variant that `auto` chose where all were made; other precisions on request. Only
what runs without a GPU is made: 'asa-engine export --target' makes the rest. One that is whole and
was made of the same checkpoint, speech and code is left as it is, so that a stopped run goes on
where it was.

With a manifest, scores are compared on real speech of speakers held out; without one, on synthetic
recordings, and graders that score nothing without a text are left out. Graders of sessions are
compared on those of the manifest beside it whose name ends in "-sessions".
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from asa_engine.backbones import fetch
from asa_engine.bundle import CONFIG_NAME, Bundle
from asa_engine.cli.export import CALIBRATION_RECORDINGS
from asa_engine.cli.main import report_error
from asa_engine.errors import AsaError, BundleError, CheckpointError, DriftError, UsageError
from asa_engine.files import atomic_write, read_json, sha256_file
from asa_engine.graders import grader_entry
from asa_engine.nn.kept import keep_loaded
from asa_export.exporter import LOG, ExportReport, Variant, export, exporter_of, plan
from asa_export.progress import Progress, duration
from asa_export.speech import Speech, manifest_speech, synthetic_speech

__all__ = ["Job", "jobs", "main"]

ON_GPU = frozenset({"cuda", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"})
"""Backends left to those who have a GPU."""

JUDGED = 100
"""Recordings that an export is judged on."""
JUDGED_EXACT = 25
"""Those of one at fp32 alone: rounding moves no score by what a hundred would tell from none."""
ALL = "all"
STAMPS = ".made"
LIBRARIES = ("asa-engine", "ctranslate2", "numpy", "onnx", "onnxruntime", "torch", "transformers")
"""What a bundle is made with: another version makes it anew."""


@dataclass(frozen=True, slots=True)
class Job:
    """One bundle to make.

    Attributes:
        checkpoint: What it is made of.
        bundle: Where it goes.
        config: The checkpoint's configuration.
        variants: What it will hold.
        otherwise: What it will hold, the first that is within the budget, where they are not: how
            far int8 moves scores depends on the processor.
        manifest: The speech that it is calibrated and judged on; `None` for synthetic speech.
    """

    checkpoint: Path
    bundle: Path
    config: dict[str, Any]
    variants: tuple[Variant, ...]
    manifest: Path | None
    otherwise: tuple[Variant, ...] = ()

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.bundle.name

    @property
    def stamp(self) -> Path:
        """File that says what the bundle was made of, and how long it took."""
        return self.bundle.parent / STAMPS / f"{self.name}.json"

    def backbones(self) -> list[str]:
        """Return the pretrained models that the checkpoint names, each once."""
        named = self.config.get("backbones") or dict(self.config.get("speech") or {}).get(
            "backbones"
        )
        return list(dict.fromkeys(map(str, dict(named or {}).values())))

    def speech(self) -> Speech:
        """Return the recordings, or sessions, to calibrate and to judge on."""
        if self.manifest is not None:
            exact = all(precision == "fp32" for _, precision in self.variants + self.otherwise)
            limit = JUDGED_EXACT if exact else JUDGED
            return manifest_speech(self.manifest, calibrate=CALIBRATION_RECORDINGS, limit=limit)
        return synthetic_speech([str(part["name"]) for part in self.config.get("parts") or ()])

    def fingerprint(self) -> str:
        """Return a hash of all that the bundle depends on."""
        sources = [
            *sorted(path for path in self.checkpoint.rglob("*") if path.is_file()),
            *sorted(Path(__file__).parent.glob("*.py")),
            *([] if self.manifest is None else [self.manifest]),
        ]
        parts = [
            *(f"{path.name} {sha256_file(path)}" for path in sources),
            *(f"{name} {metadata.version(name)}" for name in LIBRARIES),
            *("/".join(variant) for variant in self.variants + self.otherwise),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def is_made(self) -> bool:
        """Whether the bundle is whole and of what it would be made of now."""
        try:
            if read_json(self.stamp, BundleError).get("fingerprint") != self.fingerprint():
                return False
            Bundle.open(self.bundle)
        except BundleError:
            return False
        return True


def jobs(
    models: Path,
    bundles: Path,
    manifest: Path | None,
    *,
    only: Sequence[str] = (),
    precisions: Sequence[str] = (),
) -> Iterator[Job]:
    """Yield what is to be made, a job for each checkpoint.

    Args:
        models: Folder of checkpoints.
        bundles: Folder of bundles.
        manifest: Scored recordings.
        only: Names of checkpoints; all if empty.
        precisions: Those to write, or "all"; if empty, what the exporter prefers.

    Raises:
        CheckpointError: A configuration cannot be read.
        UsageError: A name or a precision is not there.
    """
    folders = {path.parent.name: path.parent for path in sorted(models.glob(f"*/{CONFIG_NAME}"))}
    for name in only:
        if name not in folders:
            raise UsageError(f"{models} has no {name!r}", hint=f"one of {', '.join(folders)}")
    for name, checkpoint in folders.items():
        if not only or name in only:
            config = read_json(checkpoint / CONFIG_NAME, CheckpointError)
            grader = str(config.get("grader"))
            variants, otherwise = _variants(grader, config, precisions)
            speech = _speech_of(grader, manifest)
            yield Job(checkpoint, bundles / name, config, variants, speech, otherwise)


def _variants(
    grader: str, config: dict[str, Any], precisions: Sequence[str]
) -> tuple[tuple[Variant, ...], tuple[Variant, ...]]:
    """Return the variants to make, and what is preferred after them where nothing was asked."""
    exporter = exporter_of(grader)
    targets = [
        target
        for target, (backend, _) in exporter.targets.items()
        if backend not in ON_GPU
        and config.get(exporter.needs.get(target, "grader"))
        and not config.get(exporter.lacks.get(target, ""))
    ]
    possible = {exporter.targets[target][0] for target in targets}
    preferred = [variant for variant in exporter.preferred if variant[0] in possible]
    if preferred and not precisions:
        return tuple(preferred[:1]), tuple(preferred[1:])
    return plan(targets, [p for p in precisions if p != ALL], grader), ()


def _speech_of(grader: str, manifest: Path | None) -> Path | None:
    """Return the manifest that a grader is judged on: of sessions for graders of those."""
    if manifest is None or grader_entry(grader).session is None:
        return manifest
    sessions = manifest.with_name(f"{manifest.stem}-sessions{manifest.suffix}")
    return sessions if sessions.is_file() else None


def make(job: Job, progress: Progress) -> None:
    """Make one bundle, and say how far its scores move.

    Raises:
        AsaError: It cannot be made, or a variant is over its budget.
    """
    start = time.monotonic()
    fingerprint = job.fingerprint()
    if backbones := job.backbones():
        LOG.info("fetch %s", ", ".join(backbones))
        for name in backbones:
            fetch(name)
    report = _within_budget(job, job.speech(), progress)
    took_s = time.monotonic() - start
    job.stamp.parent.mkdir(exist_ok=True)
    atomic_write(
        job.stamp, json.dumps({"fingerprint": fingerprint, "seconds": round(took_s)}).encode()
    )
    for parity in report.parity:
        progress.say(parity.table())
    size = sum(report.bytes.values()) / 1e6
    progress.say(f"{job.bundle}: {size:.0f} MB, made in {duration(took_s)}")


def _within_budget(job: Job, speech: Speech, progress: Progress) -> ExportReport:
    """Export what is preferred, or the first after it that the budget admits."""
    variants, *others = [job.variants, *((variant,) for variant in job.otherwise)]
    while True:
        try:
            return export(
                job.checkpoint,
                job.bundle,
                variants,
                speech,
                overwrite=True,
                progress=progress.count,
            )
        except DriftError as refusal:
            if not others:
                raise
            progress.say(f"{refusal}: left out")
            variants = others.pop(0)


def _expected_s(job: Job) -> float | None:
    """Return how long the bundle took the last time."""
    try:
        return float(read_json(job.stamp, BundleError)["seconds"])
    except (BundleError, KeyError, TypeError, ValueError):
        return None


def _to_make(found: Iterable[Job], *, force: bool) -> Iterator[Job]:
    """Leave out, and name, what is made already or cannot be."""
    for job in found:
        needed = grader_entry(str(job.config.get("grader"))).requires
        if needed and job.manifest is None:
            print(f"{job.name} is left out: it needs a manifest with {', '.join(needed)}")
        elif not force and job.is_made():
            print(f"{job.bundle} is made already")
        else:
            yield job


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m asa_export.bundles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", type=Path, help="folder of checkpoints")
    parser.add_argument("bundles", type=Path, help="folder of bundles")
    parser.add_argument("manifest", type=Path, nargs="?", help="scored recordings")
    parser.add_argument("--only", nargs="*", default=[], help="checkpoints (default: all)")
    parser.add_argument("--precision", nargs="*", default=[], help=f"precisions, or {ALL}")
    parser.add_argument("--force", action="store_true", help="make again what is made")
    return parser.parse_args(arguments)


@keep_loaded()
def main(arguments: Sequence[str] | None = None) -> int:
    """Make all bundles; stop at the first that fails and return its exit code."""
    options = _options(arguments)
    manifest = options.manifest
    if manifest is None or not manifest.is_file():
        print(f"no manifest{f' {manifest}' if manifest else ''}: synthetic recordings judge")
        manifest = None
    precisions = [one for given in options.precision for one in given.split(",") if one]
    LOG.setLevel(logging.INFO)
    try:
        found = jobs(
            options.models, options.bundles, manifest, only=options.only, precisions=precisions
        )
        waiting = list(_to_make(found, force=options.force))
        with Progress(LOG, {job.name: _expected_s(job) for job in waiting}) as progress:
            for job in waiting:
                progress.begin(job.name)
                make(job, progress)
    except AsaError as error:
        report_error(error, as_json=False)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
