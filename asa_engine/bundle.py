"""Bundles: a folder with `asa.json` and every artifact a grader needs to run.

`asa.json` names the grader, the artifact of each stage for each backend and precision, and the
SHA-256 and size of every file. `config.json` and `weights.safetensors` are a training checkpoint,
so a bundle is also its own reference. A bare checkpoint folder opens as a bundle that only the
`torch` backend can run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from asa_engine.artifacts.onnx_graph import external_files
from asa_engine.errors import BundleError
from asa_engine.files import read_json, sha256_file

__all__ = [
    "CONFIG_NAME",
    "DEFAULT",
    "DEFAULT_BUNDLE",
    "FORMAT_REVISION",
    "MANIFEST_NAME",
    "MODELS",
    "SHIPPED",
    "WEIGHTS_NAME",
    "Artifact",
    "Bundle",
    "describe_artifacts",
    "write_manifest",
]

FORMAT_REVISION = 1
MANIFEST_NAME = "asa.json"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "weights.safetensors"
MODELS = Path(__file__).parent / "models"
SHIPPED = ("pronunciation", "acoustic")
"""Names of the bundles that ship. The first one is the default; where it cannot do what is asked,
as run on a certain backend, "default" is the next that can."""
DEFAULT_BUNDLE = MODELS / SHIPPED[0]
DEFAULT = "default"

_MAKE_ANEW = "export the bundle again, or reinstall the package it came with"

Stages = dict[str, dict[str, dict[str, str]]]
"""Stage -> backend -> precision -> file name."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a bundle: its hash and size as the manifest states them."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: every artifact has been found and its hash agreed.

    Attributes:
        path: The folder.
        name: What the bundle calls itself.
        version: Its version.
        grader: Name of the grader, as `asa_engine.graders.grader_entry` takes it.
        config: The grader's configuration, as in `config.json`.
        stages: Stage -> backend -> precision -> file name.
        artifacts: File name -> hash and size.
        auto: (backend, precision) pairs, best first, all inside the drift budget.
        parity: The parity report of each exported (backend, precision), by "backend/precision".
        sha256: Hash of `asa.json`, which pins everything else; of `config.json` in a checkpoint.
    """

    path: Path
    name: str
    version: str
    grader: str
    config: Mapping[str, Any]
    stages: Stages
    artifacts: Mapping[str, Artifact]
    auto: tuple[tuple[str, str], ...]
    sha256: str
    parity: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls, folder: str | Path | None = None, able: Callable[[Bundle], bool] | None = None
    ) -> Bundle:
        """Open a bundle or a checkpoint folder and check every hash in it.

        Args:
            folder: The folder, or the name of a bundle that ships: `None` or "default" for the
                default, "pronunciation" or "acoustic".
            able: What the default must be able to do: the first of `SHIPPED` that is, or the very
                first. What is named by another name is opened whatever it can.

        Raises:
            BundleError: Something is missing, changed, malformed, or of a newer format revision.
        """
        if folder is None or str(folder) == DEFAULT:
            every = (cls._open(MODELS / name) for name in SHIPPED)
            chosen = (bundle for bundle in every if able is None or able(bundle))
            return next(chosen, None) or cls._open(DEFAULT_BUNDLE)
        return cls._open(_place(folder))

    @classmethod
    def _open(cls, path: Path) -> Bundle:
        if not path.is_dir():
            raise BundleError(
                f"{path} is not a bundle folder", hint="pass a folder that holds asa.json"
            )
        if (path / MANIFEST_NAME).is_file():
            return cls._open_manifest(path)
        if (path / CONFIG_NAME).is_file():
            return cls._open_checkpoint(path)
        raise BundleError(
            f"{path} holds neither {MANIFEST_NAME} nor {CONFIG_NAME}",
            hint="pass a folder made by 'asa-engine export' or 'asa-engine train'",
        )

    @classmethod
    def _open_manifest(cls, path: Path) -> Bundle:
        manifest = read_json(path / MANIFEST_NAME, BundleError)
        revision = manifest.get("format_revision")
        if not isinstance(revision, int) or revision < 1:
            raise BundleError(f"{path / MANIFEST_NAME} states no format_revision", hint=_MAKE_ANEW)
        if revision > FORMAT_REVISION:
            raise BundleError(
                f"{path} has format revision {revision}; this engine reads up to {FORMAT_REVISION}",
                hint="upgrade asa-engine",
            )
        try:
            artifacts = {
                _confined(name): Artifact(str(entry["sha256"]), _size(entry["bytes"]))
                for name, entry in manifest["artifacts"].items()
            }
            stages: Stages = {
                stage: {
                    backend: {precision: _confined(name) for precision, name in files.items()}
                    for backend, files in backends.items()
                }
                for stage, backends in manifest["stages"].items()
            }
            auto = tuple((str(backend), str(precision)) for backend, precision in manifest["auto"])
            name, version, grader = (str(manifest[key]) for key in ("name", "version", "grader"))
            parity = dict(manifest.get("parity", {}))
        except (KeyError, TypeError, ValueError, AttributeError) as failure:
            raise BundleError(
                f"{path / MANIFEST_NAME} is malformed: {failure}", hint=_MAKE_ANEW
            ) from None
        _check_artifacts(path, artifacts)
        used = {file for by in stages.values() for files in by.values() for file in files.values()}
        # A graph may read further files, which the runtime opens without a word.
        read = {
            (PurePosixPath(file).parent / name).as_posix()
            for file in used & artifacts.keys()
            for name in external_files(path / file)
        }
        unlisted = (used | read) - artifacts.keys()
        if unlisted or CONFIG_NAME not in artifacts:
            missing = ", ".join(sorted(unlisted or {CONFIG_NAME}))
            raise BundleError(
                f"{path / MANIFEST_NAME} lists no hash for {missing}", hint=_MAKE_ANEW
            )
        return cls(
            path=path,
            name=name,
            version=version,
            grader=grader,
            config=read_json(path / CONFIG_NAME, BundleError),
            stages=stages,
            artifacts=artifacts,
            auto=auto,
            sha256=sha256_file(path / MANIFEST_NAME),
            parity=parity,
        )

    @classmethod
    def _open_checkpoint(cls, path: Path) -> Bundle:
        config = read_json(path / CONFIG_NAME, BundleError)
        if not (path / WEIGHTS_NAME).is_file():
            raise BundleError(f"{path} has no {WEIGHTS_NAME}", hint="train the grader again")
        return cls(
            path=path,
            name=path.resolve().name,
            version="checkpoint",
            grader=str(config.get("grader", "")),
            config=config,
            stages={"grader": {"torch": {"fp32": WEIGHTS_NAME}}},
            artifacts=describe_artifacts(path, (CONFIG_NAME, WEIGHTS_NAME)),
            auto=(("torch", "fp32"),),
            sha256=sha256_file(path / CONFIG_NAME),
        )

    def variants(self) -> tuple[tuple[str, str], ...]:
        """Return every (backend, precision) that has an artifact for any stage."""
        by_stage = [
            {(backend, precision) for backend, files in by.items() for precision in files}
            for by in self.stages.values()
        ]
        return tuple(sorted(set.union(*by_stage))) if by_stage else ()

    def file(self, stage: str, backend: str, precision: str) -> Path:
        """Return the artifact of one stage.

        Raises:
            BundleError: The bundle holds none for this backend and precision.
        """
        try:
            return self.path / self.stages[stage][backend][precision]
        except KeyError:
            have = ", ".join(f"{b}/{p}" for b, p in self.variants())
            raise BundleError(
                f"{self.name} holds no {stage} for {backend} at {precision}",
                hint=f"it holds {have}; others are made by 'asa-engine export'",
            ) from None


def _place(folder: str | Path) -> Path:
    """Return where a bundle lies; a folder at hand goes before a shipped one of its name."""
    is_shipped = str(folder) in SHIPPED and not Path(folder).exists()
    return MODELS / folder if is_shipped else Path(folder)


def _confined(name: object) -> str:
    """Return `name` if it is a plain relative path that stays inside the bundle."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a file name")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name:
        raise ValueError(f"{name!r} leads out of the bundle")
    return name


def _size(value: object) -> int:
    """Return `value` if it is a size in bytes."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:40]} is not a number of bytes")
    return value


def _check_artifacts(folder: Path, artifacts: Mapping[str, Artifact]) -> None:
    root = folder.resolve()
    for name, artifact in artifacts.items():
        path = folder / name
        if not path.resolve().is_relative_to(root):
            raise BundleError(f"{path} leads out of the bundle", hint=_MAKE_ANEW)
        if not path.is_file():
            raise BundleError(f"{path} is missing", hint=_MAKE_ANEW)
        if path.stat().st_size != artifact.size_bytes or sha256_file(path) != artifact.sha256:
            raise BundleError(
                f"{path} is not the file the bundle was made with (its hash differs)",
                hint=_MAKE_ANEW,
            )


def describe_artifacts(folder: Path, names: tuple[str, ...]) -> dict[str, Artifact]:
    """Return hash and size of the named files of a folder."""
    return {
        name: Artifact(sha256_file(folder / name), (folder / name).stat().st_size) for name in names
    }


def write_manifest(
    folder: Path,
    *,
    name: str,
    version: str,
    grader: str,
    stages: Stages,
    auto: tuple[tuple[str, str], ...],
    parity: Mapping[str, Any],
) -> None:
    """Write `asa.json` into a folder that holds all artifacts already; hash every file there.

    Raises:
        BundleError: `config.json` is not in the folder.
    """
    names = tuple(
        sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and path.name != MANIFEST_NAME
        )
    )
    if CONFIG_NAME not in names:
        raise BundleError(f"{folder} has no {CONFIG_NAME}")
    manifest = {
        "format_revision": FORMAT_REVISION,
        "name": name,
        "version": version,
        "grader": grader,
        "stages": stages,
        "auto": [list(pair) for pair in auto],
        "artifacts": {
            file: {"sha256": artifact.sha256, "bytes": artifact.size_bytes}
            for file, artifact in describe_artifacts(folder, names).items()
        },
        "parity": dict(parity),
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
