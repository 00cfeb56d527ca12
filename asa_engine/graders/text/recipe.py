"""Recipes of the text grader: TOML files, read strictly."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from asa_engine.errors import UsageError
from asa_engine.recipes import (
    build,
    build_each,
    check_comparison,
    find_data,
    read_recipe,
    section,
    value,
)

__all__ = ["OBJECTIVES", "ClassRecipe", "DataRecipe", "EncoderRecipe", "FitRecipe", "TextRecipe"]

OBJECTIVES = ("cross_entropy", "focal", "blv")
_TOP_LEVEL = (
    "grader",
    "threads",
    "seeds",
    "ship",
    "recogniser",
    "data",
    "encoder",
    "classes",
    "fit",
    "objective",
)


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """What is trained on.

    Attributes:
        manifest: JSON Lines file, looked for as `asa_engine.recipes.find_data` says.
        score: Which of its scores is cut into classes.
        transcripts: JSON Lines of `id` and `text`, in place of the recogniser's own.
    """

    manifest: str
    score: str = "total"
    transcripts: str = ""


@dataclass(frozen=True, slots=True)
class EncoderRecipe:
    """Where BERT comes from, and how much of it is trained.

    Attributes:
        backbone: A backbone's name; the checkpoint then holds the tuned layers alone.
        source: Instead, a folder or a name on the hub, e.g. "bert-base-uncased"; the checkpoint
            then holds all of it.
        tuned_layers: How many of its top layers are trained.
        max_pieces: Word pieces read at most.
    """

    backbone: str = ""
    source: str = ""
    tuned_layers: int = 3
    max_pieces: int = 256


@dataclass(frozen=True, slots=True)
class ClassRecipe:
    """How scores become classes.

    Attributes:
        names: Lowest first, such as CEFR levels.
        cuts: Scores at which the next class begins, ascending, one fewer.
        scale_min: Lowest score of the scale.
        scale_max: Highest score.
    """

    names: tuple[str, ...]
    cuts: tuple[float, ...]
    scale_min: float = 0.0
    scale_max: float = 10.0


@dataclass(frozen=True, slots=True)
class FitRecipe:
    """The schedule: AdamW, a linear rise of the learning rate, then half a cosine down to zero.

    Attributes:
        epochs: Passes over the training speakers.
        batch_size: Transcripts a step.
        lr: Peak learning rate of BERT's layers.
        head_lr: Peak learning rate of the linear layer.
        weight_decay: On matrices only.
        warmup: Share of all steps with a rising rate.
        dropout: Before the linear layer.
    """

    epochs: int = 4
    batch_size: int = 32
    lr: float = 1e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class ObjectiveRecipe:
    """One objective of the comparison.

    Attributes:
        name: In the report.
        kind: One of `OBJECTIVES`.
        gamma: Of the focal loss.
        sigma: Of the BLV loss.
        clamp: Of the BLV loss; without it, noise is not held.
    """

    name: str
    kind: str
    gamma: float = 2.0
    sigma: float = 6.0
    clamp: float | None = None


@dataclass(frozen=True, slots=True)
class TextRecipe:
    """A whole comparison: every objective with every seed; one of the runs is shipped.

    Attributes:
        name: Of the recipe.
        threads: PyTorch threads; the result depends on it in the last bits.
        seeds: Each objective is trained once with each.
        ship: Name of the objective whose first run becomes the checkpoint.
        recogniser: Backbone that transcribes.
        data: What is trained on.
        encoder: Where BERT comes from.
        classes: How scores become classes.
        fit: The schedule, the same for all.
        objectives: In the order of the report.
        digest: SHA-256 of the file; a comparison is resumed only under the same one.
        folder: Where the recipe lies.
    """

    name: str
    threads: int
    seeds: tuple[int, ...]
    ship: str
    recogniser: str
    data: DataRecipe
    encoder: EncoderRecipe
    classes: ClassRecipe
    fit: FitRecipe
    objectives: tuple[ObjectiveRecipe, ...]
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
            recogniser=value(
                table.get("recogniser", "whisper-tiny.en"), "", f"{where}: recogniser"
            ),
            data=build(DataRecipe, section(table, "data", where), f"{where} [data]"),
            encoder=build(EncoderRecipe, section(table, "encoder", where), f"{where} [encoder]"),
            classes=build(ClassRecipe, section(table, "classes", where), f"{where} [classes]"),
            fit=build(FitRecipe, table.get("fit", {}), f"{where} [fit]"),
            objectives=build_each(ObjectiveRecipe, table, "objective", where),
            digest=digest,
            folder=path.resolve().parent,
        )
        recipe._check(where)
        return recipe

    @property
    def shipped(self) -> ObjectiveRecipe:
        """The objective whose first run becomes the checkpoint."""
        return next(item for item in self.objectives if item.name == self.ship)

    def manifest_path(self) -> Path:
        """Return where the manifest lies.

        Raises:
            UsageError: It is in none of the places looked at.
        """
        return find_data(self.data.manifest, self.folder)

    def _check(self, where: str) -> None:
        names = [item.name for item in self.objectives]
        check_comparison(
            where,
            what="objectives",
            names=names,
            seeds=self.seeds,
            threads=self.threads,
            epochs=self.fit.epochs,
            batch_size=self.fit.batch_size,
            shares=(self.fit.dropout, self.fit.warmup),
        )
        if self.ship not in names:
            raise UsageError(f"{where}: ship is {self.ship!r}, none of {', '.join(names)}")
        for item in self.objectives:
            if item.kind not in OBJECTIVES:
                raise UsageError(
                    f"{where} [[objective]] {item.name}: kind is {item.kind!r}",
                    mend=f"choose from {', '.join(OBJECTIVES)}",
                )
        if bool(self.encoder.backbone) == bool(self.encoder.source):
            raise UsageError(f"{where} [encoder]: name either a backbone or a source")
        cuts = self.classes.cuts
        if len(self.classes.names) != len(cuts) + 1 or not cuts:
            raise UsageError(f"{where} [classes]: there must be one cut fewer than names")
        if any(b <= a for a, b in itertools.pairwise(cuts)):
            raise UsageError(f"{where} [classes]: cuts must ascend")
