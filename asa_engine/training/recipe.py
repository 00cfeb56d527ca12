"""What every recipe is: a TOML file, read strictly, built into a dataclass of its grader."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar, get_type_hints

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.evaluation.manifest import Utterance
from asa_engine.evaluation.splits import Sides, read_sides
from asa_engine.training.recipe_file import RecipeFile, find_data, find_recipe


class _Stored(Protocol):
    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self: ...

    def to_dict(self) -> dict[str, Any]: ...


class Named(Protocol):
    """What a comparison compares."""

    @property
    def name(self) -> str:
        """In the report."""


N = TypeVar("N", bound=Named)
C = TypeVar("C", bound=_Stored)

__all__ = [
    "CorpusRecipe",
    "Model",
    "Named",
    "Recipe",
    "RecipeOfRuns",
    "RecipeOverSeeds",
    "check_choice",
    "shipped",
]


_HEADER = ("name", "threads", "digest", "folder", "data")


class Model(NamedTuple):
    """A pretrained model that a recipe names, and how hard it works.

    Attributes:
        role: What for.
        source: A backbone's name, a folder, `package:NAME`, or a name on the hub.
        positions_a_second: Positions that it is run on, for a second of audio.
        passes: How often it is run on all of the audio; one that learns counts three times.
        part: What the names of the tensors that are run begin with or hold; "" for all.
    """

    role: str
    source: str
    positions_a_second: float
    passes: float
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusRecipe:
    """Which corpus is trained on; who is held out follows `asa_engine.evaluation.splits`.

    Attributes:
        manifest: JSON Lines file, or a folder with `train.jsonl` and `dev.jsonl`; looked for as
            `asa_engine.training.recipe_file.find_data` says.
        dev: Manifest of the dev speakers, where they have one of their own.
    """

    manifest: str
    dev: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(ABC):
    """What every recipe has.

    Attributes:
        name: Of the recipe.
        threads: PyTorch threads; the result depends on it in the last bits.
        digest: SHA-256 of the file; training is resumed only under the same one.
        folder: Where the recipe lies.
        data: The corpus that is trained on, and what of it.
    """

    default_threads: ClassVar[int] = 1
    has_data_section: ClassVar[bool] = True
    """Whether what says the corpus stands under [data], not at the top of the file."""

    name: str
    threads: int
    digest: str
    folder: Path = field(repr=False)
    data: CorpusRecipe

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and validate a recipe.

        Args:
            path: TOML file, or the name of a shipped recipe.

        Raises:
            UsageError: It is missing, is not TOML, or a value is missing, unknown, of the wrong
                kind or out of range; the message names the file and the field.
        """
        file = RecipeFile.read(find_recipe(path))
        file.refuse_unknown(cls.read)
        threads = file.value("threads", cls.default_threads)
        if not 1 <= threads <= 1024:
            raise UsageError(f"{file.path}: threads must be 1 to 1024")
        recipe = cls(
            name=file.path.stem,
            threads=threads,
            digest=file.digest,
            folder=file.path.resolve().parent,
            **cls.read(file),
        )
        recipe.check(str(file.path))
        return recipe

    @classmethod
    def read(cls, file: RecipeFile) -> dict[str, Any]:
        """Return the fields of the grader's own; what stands for one follows from its type."""
        kinds = get_type_hints(cls)
        data = kinds["data"]
        found = file.part("data", data, needed=True) if cls.has_data_section else file.top(data)
        return {"data": found} | {
            item.name: file.field(item.name, kinds[item.name], item.default)
            for item in fields(cls)
            if item.name not in _HEADER
        }

    @abstractmethod
    def check(self, where: str) -> None:
        """Raise `UsageError` where a value cannot be; `where` is the file, for messages."""

    @abstractmethod
    def models(self, recordings: int) -> Sequence[Model]:
        """Return the pretrained models that training on so many recordings runs."""

    @abstractmethod
    def steps(self, recordings: int) -> int:
        """Return the optimiser steps of language models, encoders or whole graders, in all."""

    @abstractmethod
    def wanted(self) -> tuple[Sequence[str], str]:
        """Return the scores that every line must have, and which `TARGETS` of them."""

    def checked(self, config: C) -> C:
        """Return a grader's configuration as it is read back.

        Raises:
            UsageError: No such configuration can be.
        """
        try:
            return type(config).from_dict(json.loads(json.dumps(config.to_dict())))
        except CheckpointError as error:
            raise UsageError(
                f"the recipe {self.name}: {error.message}", hint="correct the recipe"
            ) from None

    def find(self, name: str) -> Path:
        """Return where a file of the recipe's data lies.

        Raises:
            UsageError: It is in none of the places looked at.
        """
        return find_data(name, self.folder)

    def sides(self) -> Sides:
        """Read the corpus's manifests.

        Raises:
            UsageError: As `find` does.
            ManifestError: As `read_sides` does.
        """
        corpus = self.data
        return read_sides(self.find(corpus.manifest), self.find(corpus.dev) if corpus.dev else None)

    def recordings(self) -> tuple[list[Utterance], list[Utterance], str]:
        """Return what is learnt from, what is held out, and the rule; raises as `sides` does."""
        sides = self.sides()
        return sides.train, sides.dev, sides.rule


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeOfRuns(Recipe):
    """A recipe that is followed once for everything it names.

    Attributes:
        seed: Of everything.
        ship: Name of the run that becomes the checkpoint.
    """

    seed: int = 1
    ship: str = ""

    def check_runs(self, where: str, what: str, names: Sequence[str]) -> None:
        """Raise `UsageError` where names repeat, are none, or the shipped one is not there."""
        check_names(where, what, names)
        if self.ship not in names:
            raise UsageError(f"{where}: ship is {self.ship!r}, none of {', '.join(names)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeOverSeeds(Recipe):
    """A comparison: everything it names is trained with every seed.

    Attributes:
        seeds: Each is used once.
        ship: Name of what is shipped; its first run becomes the checkpoint.
    """

    seeds: tuple[int, ...] = (1,)
    ship: str = ""

    def check_comparison(
        self,
        where: str,
        what: str,
        names: Sequence[str],
        *,
        sizes: Sequence[tuple[int, int]],
        shares: Sequence[float],
    ) -> None:
        """Raise `UsageError` where what every comparison over seeds states cannot be.

        Args:
            where: The recipe's file.
            what: What is compared, in the plural.
            names: Their names.
            sizes: Pairs of a count and the least it may be.
            shares: What must be in [0, 1).
        """
        check_names(where, what, names)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UsageError(f"{where}: seeds must be numbers that differ")
        if any(count < least for count, least in sizes):
            raise UsageError(f"{where}: epochs or batch_size is out of range")
        if not all(0 <= share < 1 for share in shares):
            raise UsageError(f"{where} [fit]: a share is not in [0, 1)")


def shipped(items: Sequence[N], ship: str) -> N:
    """Return the item that is shipped."""
    return next(item for item in items if item.name == ship)


def check_names(where: str, what: str, names: Sequence[str]) -> None:
    """Raise `UsageError` where names repeat or are no identifiers."""
    if len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
        raise UsageError(f"{where}: {what} need names that differ: letters, digits and _")


def check_choice(where: str, item: Named, field_name: str, choices: Sequence[str]) -> None:
    """Raise `UsageError` where a field of a named item is none of the choices."""
    value = getattr(item, field_name)
    if value not in choices:
        raise UsageError(
            f"{where} {item.name}: {field_name} is {value!r}",
            hint=f"choose from {', '.join(choices)}",
        )
