"""Recipe files: TOML read strictly, and where the data that they name lie."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.files import atomic_write, read_json

__all__ = [
    "RecipeFile",
    "build",
    "build_each",
    "check_comparison",
    "check_runs",
    "check_shares",
    "claim_work",
    "find_data",
    "read_recipe",
    "section",
    "value",
]

SHARED_VARIABLE = "ASA_SHARED"
_EXAMPLES: dict[str, Any] = {
    "str": "",
    "int": 0,
    "float": 0.0,
    "float | None": 0.0,
    "bool": False,
    "tuple[float, ...]": (0.0,),
    "tuple[int, ...]": (0,),
    "tuple[str, ...]": ("",),
}

_T = TypeVar("_T")


def read_recipe(path: Path, known: Collection[str]) -> tuple[dict[str, Any], str]:
    """Read a recipe.

    Args:
        path: The TOML file.
        known: What may stand at its top level.

    Returns:
        The table, and the file's SHA-256.

    Raises:
        UsageError: It is missing, is not TOML, or holds something unknown.
    """
    try:
        raw = path.read_bytes()
        table = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise UsageError(
            f"the recipe {path} cannot be read: {error.strerror}", mend="check the path"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}", mend="mend that line") from None
    if unknown := sorted(table.keys() - set(known)):
        raise UsageError(
            f"{path}: unknown {', '.join(unknown)}", mend=f"known: {', '.join(sorted(known))}"
        )
    return table, hashlib.sha256(raw).hexdigest()


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe as it was read, from which dataclasses are built.

    Attributes:
        path: The file.
        table: What it holds.
        digest: Its SHA-256.
    """

    path: Path
    table: dict[str, Any]
    digest: str

    @classmethod
    def read(cls, path: Path, known: Collection[str]) -> Self:
        """Read a recipe; raises as `read_recipe` does."""
        return cls(path, *read_recipe(path, known))

    def header(self) -> dict[str, Any]:
        """Return what every recipe has: name, threads, seed, digest and the folder it lies in.

        Raises:
            UsageError: Threads or seed are of the wrong kind or out of range.
        """
        threads = self.value("threads", 1)
        if not 1 <= threads <= 1024:
            raise UsageError(f"{self.path}: threads must be 1 to 1024")
        return {
            "name": self.path.stem,
            "threads": threads,
            "seed": self.value("seed", 1),
            "digest": self.digest,
            "folder": self.path.resolve().parent,
        }

    def value(self, name: str, default: Any) -> Any:
        """Return a value of its top level, of the default's kind."""
        return value(self.table.get(name, default), default, f"{self.path}: {name}")

    def part(self, name: str, of: type[_T], *, needed: bool = False) -> _T:
        """Build a section; one that is not needed may be left out.

        Raises:
            UsageError: It is not there, or cannot be built.
        """
        found = section(self.table, name, str(self.path)) if needed else self.table.get(name, {})
        return build(of, found, f"{self.path} [{name}]")

    def each(self, name: str, of: type[_T]) -> tuple[_T, ...]:
        """Build one for each `[[name]]`; raises as `build_each` does."""
        return build_each(of, self.table, name, str(self.path))


def find_data(name: str, folder: Path) -> Path:
    """Return where a manifest lies that a recipe names.

    A relative name is looked for in the folder that ASA_SHARED names, beside the recipe, in the
    working folder, and in ../shared.

    Args:
        name: As in the recipe.
        folder: Where the recipe lies.

    Raises:
        UsageError: It is in none of these places.
    """
    roots = [folder, Path(), Path("../shared")]
    if shared := os.environ.get(SHARED_VARIABLE):
        roots.insert(0, Path(shared))
    for root in roots:
        if (root / name).is_file():
            return root / name
    raise UsageError(
        f"the manifest {name} is not in {', '.join(str(root) for root in roots)}",
        mend=f"set {SHARED_VARIABLE} to the folder that holds it",
    )


def section(table: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return a section of a recipe, or raise `UsageError` where it is not there."""
    found = table.get(name)
    if not isinstance(found, dict):
        raise UsageError(f"{where}: there is no [{name}]", mend="add the section")
    return found


def build(cls: type[_T], table: object, where: str) -> _T:
    """Build a dataclass of plain fields from a section.

    Raises:
        UsageError: A field is missing, unknown, or of the wrong kind; the message names it.
    """
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table", mend="mend the recipe")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(table.keys() - fields.keys()):
        raise UsageError(
            f"{where}: unknown {', '.join(unknown)}", mend=f"known: {', '.join(sorted(fields))}"
        )
    for name, spec in fields.items():
        if spec.default is dataclasses.MISSING and name not in table:
            raise UsageError(f"{where}: {name} is missing", mend="mend the recipe")
    values = {
        name: value(item, _EXAMPLES[str(fields[name].type)], f"{where}: {name}")
        for name, item in table.items()
    }
    return cls(**values)


def build_each(cls: type[_T], table: dict[str, Any], name: str, where: str) -> tuple[_T, ...]:
    """Build one dataclass for each `[[name]]` of a recipe.

    Raises:
        UsageError: There is none, or one cannot be built.
    """
    items = table.get(name)
    if not isinstance(items, list) or not items:
        raise UsageError(f"{where}: there is no [[{name}]]", mend="add at least one")
    return tuple(
        build(cls, item, f"{where} [[{name}]] {number}") for number, item in enumerate(items, 1)
    )


def check_comparison(
    where: str,
    *,
    what: str,
    names: Sequence[str],
    seeds: Sequence[int],
    threads: int,
    epochs: int,
    batch_size: int,
    least_batch: int = 1,
    shares: Sequence[float] = (),
) -> None:
    """Check what every comparison over seeds states.

    Args:
        where: The recipe's file, for messages.
        what: What is compared, in the plural.
        names: Their names.
        seeds: Each is trained once with each.
        threads: PyTorch's.
        epochs: Passes.
        batch_size: Examples a step.
        least_batch: Fewest of these.
        shares: What must be in [0, 1).

    Raises:
        UsageError: A value is out of range, or names or seeds repeat.
    """
    if len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
        raise UsageError(f"{where}: {what} need names that differ: letters, digits and _")
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"{where}: seeds must be numbers that differ")
    if epochs < 1 or batch_size < least_batch or not 1 <= threads <= 1024:
        raise UsageError(f"{where}: epochs, batch_size or threads is out of range")
    if not all(0 <= share < 1 for share in shares):
        raise UsageError(f"{where} [fit]: a share is not in [0, 1)")


def check_runs(where: str, *, what: str, names: Sequence[str], ship: str) -> None:
    """Check the names of a comparison's runs, and which of them is shipped.

    Raises:
        UsageError: They repeat, are no names, or the shipped one is none of them.
    """
    if len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
        raise UsageError(f"{where}: {what} need names that differ: letters, digits and _")
    if ship not in names:
        raise UsageError(f"{where}: ship is {ship!r}, none of {', '.join(names)}")


def check_shares(where: str, shares: Mapping[str, float]) -> None:
    """Check shares, by the names that a user knows them by.

    Raises:
        UsageError: One is 1 or more.
    """
    for name, share in shares.items():
        if share >= 1:
            raise UsageError(f"{where} {name} must be below 1")


def value(item: Any, example: Any, where: str) -> Any:
    """Return a value of the example's kind, numbers from 0 to below 1e9; else `UsageError`."""
    kind = type(example)
    if kind is tuple:
        if not isinstance(item, list):
            raise UsageError(f"{where} is {item!r}, not a list", mend="mend it")
        return tuple(value(part, example[0], where) for part in item)
    if kind is float and type(item) is int:
        item = float(item)
    if type(item) is not kind:
        raise UsageError(f"{where} is {item!r}, not of type {kind.__name__}", mend="mend it")
    if kind in (int, float) and not 0 <= item < 1e9:
        raise UsageError(f"{where} is {item!r}, out of range", mend="mend it")
    return item


def claim_work(output: Path, report_name: str, digest: str, *, resume: bool) -> Path | None:
    """Return the folder that a comparison keeps its state in, beside its output.

    Args:
        output: Checkpoint folder of the comparison.
        report_name: Its report, which says the recipe it was made with.
        digest: SHA-256 of the recipe.
        resume: Go on with a comparison of the same recipe; False starts anew.

    Returns:
        The folder, made if need be; `None` where the output is this recipe's, finished.

    Raises:
        UsageError: The output holds something else.
        CheckpointError: The state is of another recipe.
    """
    work = output.with_name(output.name + ".training")
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    report_path = output / report_name
    if resume and report_path.is_file():
        if read_json(report_path, CheckpointError).get("recipe_sha256") == digest:
            return None
    if output.exists() and any(output.iterdir()) and resume:
        raise UsageError(
            f"{output} holds something else", mend="choose another place or pass --fresh"
        )
    marker = work / "recipe.json"
    if marker.is_file():
        if read_json(marker, CheckpointError).get("sha256") != digest:
            raise CheckpointError(
                f"{work} holds a comparison of another recipe, or of this one before it changed",
                mend="start anew with --fresh, or choose another output folder",
            )
    else:
        work.mkdir(parents=True, exist_ok=True)
        atomic_write(marker, json.dumps({"sha256": digest}).encode())
    return work
