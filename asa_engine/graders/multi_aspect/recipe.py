"""Recipes of the multi-aspect grader: TOML files, read strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.graders.multi_aspect.baselines import BASELINES
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.recipes import (
    build,
    build_each,
    check_comparison,
    find_data,
    read_recipe,
    section,
    value,
)

__all__ = ["DataRecipe", "FitRecipe", "MultiAspectRecipe", "SystemRecipe"]

OBJECTIVES = ("cross_entropy", "mmo")
MULTI_ASPECT = "ma"
_TOP_LEVEL = ("grader", "threads", "seeds", "ship", "data", "config", "fit", "system")


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """What is trained on.

    Attributes:
        manifest: JSON Lines file, looked for as `asa_engine.recipes.find_data` says. Its `text`
            is the prompt.
    """

    manifest: str


@dataclass(frozen=True, slots=True)
class FitRecipe:
    """The schedule: AdamW, a linear rise of the learning rate, then half a cosine down to zero.

    Every run lasts all epochs: nothing is chosen by the dev speakers' figures.

    Attributes:
        epochs: Passes over the training speakers.
        batch_size: Recordings a step; the MMO loss compares within a batch.
        lr: Peak learning rate.
        weight_decay: On matrices only.
        warmup: Share of all steps with a rising rate.
        no_prompt: Share of recordings whose prompt is left out, so that the grader can do without.
        mmo_share: 1 - lambda, the weight of the MMO loss beside cross-entropy's lambda.
    """

    epochs: int = 20
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    no_prompt: float = 0.15
    mmo_share: float = 0.5


@dataclass(frozen=True, slots=True)
class SystemRecipe:
    """One system of the comparison.

    Attributes:
        name: In the report.
        kind: `ma`, or a key of `BASELINES`.
        objective: One of `OBJECTIVES`.
    """

    name: str
    kind: str
    objective: str = "cross_entropy"


@dataclass(frozen=True, slots=True)
class MultiAspectRecipe:
    """A whole comparison: every system with every seed; one of the runs is shipped.

    Attributes:
        name: Of the recipe.
        threads: PyTorch threads; the result depends on it in the last bits.
        seeds: Each system is trained once with each.
        ship: Name of the system whose first run becomes the checkpoint.
        data: What is trained on.
        config: The grader's configuration.
        fit: The schedule, the same for all.
        systems: In the order of the report.
        digest: SHA-256 of the file; a comparison is resumed only under the same one.
        folder: Where the recipe lies.
    """

    name: str
    threads: int
    seeds: tuple[int, ...]
    ship: str
    data: DataRecipe
    config: MultiAspectConfig
    fit: FitRecipe
    systems: tuple[SystemRecipe, ...]
    digest: str
    folder: Path = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and validate a recipe.

        Raises:
            UsageError: It is missing, is not TOML, or a value is missing, unknown, of the wrong
                kind or out of range; the message names the file and the field.
        """
        table, digest = read_recipe(path, _TOP_LEVEL)
        where = str(path)
        recipe = cls(
            name=path.stem,
            threads=value(table.get("threads", 1), 0, f"{where}: threads"),
            seeds=value(table.get("seeds", [1]), (0,), f"{where}: seeds"),
            ship=value(table.get("ship", ""), "", f"{where}: ship"),
            data=build(DataRecipe, section(table, "data", where), f"{where} [data]"),
            config=_config(section(table, "config", where), where),
            fit=build(FitRecipe, table.get("fit", {}), f"{where} [fit]"),
            systems=build_each(SystemRecipe, table, "system", where),
            digest=digest,
            folder=path.resolve().parent,
        )
        recipe._check(where)
        return recipe

    def manifest_path(self) -> Path:
        """Return where the manifest lies.

        Raises:
            UsageError: It is in none of the places looked at.
        """
        return find_data(self.data.manifest, self.folder)

    def _check(self, where: str) -> None:
        check_comparison(
            where,
            what="systems",
            names=[item.name for item in self.systems],
            seeds=self.seeds,
            threads=self.threads,
            epochs=self.fit.epochs,
            batch_size=self.fit.batch_size,
            least_batch=2,
            shares=(self.fit.warmup, self.fit.no_prompt),
        )
        for item in self.systems:
            for what, choices in (
                ("kind", (MULTI_ASPECT, *BASELINES)),
                ("objective", OBJECTIVES),
            ):
                if getattr(item, what) not in choices:
                    raise UsageError(
                        f"{where} [[system]] {item.name}: {what} is {getattr(item, what)!r}",
                        mend=f"choose from {', '.join(choices)}",
                    )
        if not any(item.name == self.ship and item.kind == MULTI_ASPECT for item in self.systems):
            raise UsageError(f"{where}: ship is {self.ship!r}, no system of kind {MULTI_ASPECT}")
        if self.fit.mmo_share > 1:
            raise UsageError(f"{where} [fit]: mmo_share is above 1")


def _config(table: dict[str, Any], where: str) -> MultiAspectConfig:
    try:
        return MultiAspectConfig.from_dict(
            {"grader": "multi_aspect", "format_revision": 1, **table}
        )
    except CheckpointError as error:
        raise UsageError(f"{where} [config]: {error.message}", mend="mend the recipe") from None
