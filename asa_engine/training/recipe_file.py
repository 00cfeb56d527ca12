"""Recipe files: TOML read strictly, and where the data that they name lie."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, get_args, get_origin

from asa_engine.errors import CheckpointError, UsageError

__all__ = [
    "RecipeFile",
    "build",
    "check_counts",
    "check_shares",
    "find_data",
    "find_recipe",
    "value",
]

SHARED_VARIABLE = "ASA_SHARED"
RECIPES = Path(__file__).parent / "recipes"
PAPERS = "papers"
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


class _Configuration(Protocol):
    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self: ...


_C = TypeVar("_C", bound=_Configuration)


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe as it was read, from which dataclasses are built.

    Attributes:
        path: The file.
        table: What it holds.
        digest: Its SHA-256.
        asked: What of its top level somebody has asked for.
    """

    path: Path
    table: dict[str, Any]
    digest: str
    asked: set[str] = field(default_factory=lambda: {"name", "grader", "threads"})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a recipe.

        Raises:
            UsageError: It is missing, or is not TOML.
        """
        try:
            raw = path.read_bytes()
            table = tomllib.loads(raw.decode("utf-8"))
        except OSError as error:
            raise UsageError(
                f"the recipe {path} cannot be read: {error.strerror}", hint="check the path"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path} is not valid TOML: {error}", hint="correct that line"
            ) from None
        return cls(path, table, hashlib.sha256(raw).hexdigest())

    def value(self, name: str, default: Any) -> Any:
        """Return a value of its top level, of the default's kind."""
        given = self._ask(name)
        return default if given is None else value(given, default, f"{self.path}: {name}")

    def part(self, name: str, of: type[_T], *, needed: bool = False) -> _T:
        """Build a section; one that is not needed may be left out.

        Raises:
            UsageError: It is not there, or cannot be built.
        """
        given = self.section(name) if needed else self._ask(name)
        return build(of, {} if given is None else given, f"{self.path} [{name}]")

    def top(self, of: type[_T]) -> _T:
        """Build what others have as a section of values at its top level.

        Raises:
            UsageError: It cannot be built.
        """
        names = [item.name for item in dataclasses.fields(of)]  # type: ignore[arg-type]  # a class
        given = {name: item for name in names if (item := self._ask(name)) is not None}
        return build(of, given, str(self.path))

    def part_if_there(self, name: str, of: type[_T]) -> _T | None:
        """Build a section; `None` where it is left out. Raises as `part` does."""
        return self.part(name, of) if self._ask(name) is not None else None

    def each(self, name: str, of: type[_T]) -> tuple[_T, ...]:
        """Build one for each `[[name]]`.

        Raises:
            UsageError: There is none, or one cannot be built.
        """
        items = self._ask(name)
        if not isinstance(items, list) or not items:
            raise UsageError(f"{self.path}: there is no [[{name}]]", hint="add at least one")
        return tuple(
            build(of, item, f"{self.path} [[{name}]] {number}")
            for number, item in enumerate(items, 1)
        )

    def field(self, name: str, kind: Any, default: Any) -> Any:
        """Return what a recipe's field holds.

        A tuple of dataclasses is `[[name]]`, in the singular; a dataclass is `[name]`, needed where
        one of its fields is; a grader's configuration likewise; all else is a value.

        Args:
            name: The field's.
            kind: Its type.
            default: Its default, for values.

        Raises:
            UsageError: It is not there, or cannot be built.
        """
        of: tuple[Any, ...] = get_args(kind)
        if get_origin(kind) is tuple and dataclasses.is_dataclass(of[0]):
            return self.each(name.removesuffix("s"), of[0])  # type: ignore[arg-type]  # a class
        if type(None) in of:
            return self.part_if_there(name, of[0])
        if hasattr(kind, "from_dict"):
            return self.config(name, kind, kind.grader)
        if dataclasses.is_dataclass(kind):
            missing = dataclasses.MISSING
            needed = any(
                item.default is missing and item.default_factory is missing
                for item in dataclasses.fields(kind)
            )
            return self.part(name, kind, needed=needed)  # type: ignore[arg-type]  # a class
        return self.value(name, default)

    def section(self, name: str) -> dict[str, Any]:
        """Return a section as it stands, or raise `UsageError` where it is not there."""
        given = self._ask(name)
        if not isinstance(given, dict):
            raise UsageError(f"{self.path}: there is no [{name}]", hint="add the section")
        return given

    def config(self, name: str, of: type[_C], grader: str) -> _C:
        """Build a grader's configuration of a section.

        Raises:
            UsageError: It is not there, or no such configuration can be.
        """
        table = {"grader": grader, "format_revision": 1, **self.section(name)}
        try:
            return of.from_dict(table)
        except CheckpointError as error:
            raise UsageError(
                f"{self.path} [{name}]: {error.message}", hint="correct the recipe"
            ) from None

    def refuse_unknown(self, read: Callable[[RecipeFile], object]) -> None:
        """Raise `UsageError` where its top level holds what `read` does not ask for."""
        names = _Names(self.path, {}, "")
        read(names)
        if unknown := sorted(self.table.keys() - names.asked):
            raise UsageError(
                f"{self.path}: unknown {', '.join(unknown)}",
                hint=f"known: {', '.join(sorted(names.asked))}",
            )

    def _ask(self, name: str) -> Any:
        self.asked.add(name)
        return self.table.get(name)


class _Names(RecipeFile):
    """A recipe that notes what it is asked for, and builds nothing."""

    def part(self, name: str, of: type[_T], *, needed: bool = False) -> Any:
        self._ask(name)

    def top(self, of: type[_T]) -> Any:
        for item in dataclasses.fields(of):  # type: ignore[arg-type]  # a class
            self._ask(item.name)

    def each(self, name: str, of: type[_T]) -> Any:
        self._ask(name)

    def config(self, name: str, of: type[_C], grader: str) -> Any:
        self._ask(name)


def find_recipe(path: str | Path) -> Path:
    """Return the recipe's path; a name that is no file is looked for among the shipped ones.

    The papers' recipes have names such as `papers/s1`.
    """
    path = Path(path)
    parts = path.with_suffix(".toml").parts
    shipped = RECIPES.joinpath(*parts[-2:] if parts[0] == PAPERS else parts[-1:])
    return shipped if not path.exists() and shipped.is_file() else path


def find_data(name: str, folder: Path) -> Path:
    """Return where a manifest lies that a recipe names, or a folder of manifests.

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
        if name and (root / name).exists():
            return root / name
    raise UsageError(
        f"the manifest {name} is not in {', '.join(str(root) for root in roots)}",
        hint=f"set {SHARED_VARIABLE} to the folder that holds it",
    )


def build(cls: type[_T], table: object, where: str) -> _T:
    """Build a dataclass of plain fields from a section.

    Raises:
        UsageError: A field is missing, unknown, or of the wrong kind; the message names it.
    """
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table", hint="correct the recipe")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(table.keys() - fields.keys()):
        raise UsageError(
            f"{where}: unknown {', '.join(unknown)}", hint=f"known: {', '.join(sorted(fields))}"
        )
    for name, spec in fields.items():
        if spec.default is dataclasses.MISSING and name not in table:
            raise UsageError(f"{where}: {name} is missing", hint="correct the recipe")
    values = {
        name: value(item, _EXAMPLES[str(fields[name].type)], f"{where}: {name}")
        for name, item in table.items()
    }
    return cls(**values)


def check_counts(where: str, counts: Mapping[str, int]) -> None:
    """Check counts, by the names that a user knows them by.

    Raises:
        UsageError: One is below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"{where} {name} must be at least 1")


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
            raise UsageError(f"{where} is {item!r}, not a list", hint="correct it")
        return tuple(value(part, example[0], where) for part in item)
    if kind is float and type(item) is int:
        item = float(item)
    if type(item) is not kind:
        raise UsageError(f"{where} is {item!r}, not of type {kind.__name__}", hint="correct it")
    if kind in (int, float) and not 0 <= item < 1e9:
        raise UsageError(f"{where} is {item!r}, out of range", hint="correct it")
    return item
