"""The runs of a recipe: each is done once and kept, one of them is shipped."""

from __future__ import annotations

import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.files import atomic_write, read_json
from asa_engine.training.recipe import Named, Recipe

__all__ = ["REPORT_NAME", "Comparison", "WorkFolder", "claim_work"]

REPORT_NAME = "training.json"

R = TypeVar("R", bound=Recipe)
Run = TypeVar("Run", bound=str | Named | tuple[str | Named, int])


class WorkFolder:
    """What a comparison keeps between kills; it alone knows the names of the files.

    Args:
        path: The folder.

    Attributes:
        transcripts: What the recogniser heard in the corpus.
        tokenizer: A folder for a tokenizer that is fetched.
        features: Features of all recordings, NumPy's.
        responses: A folder for what was heard of each session.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.transcripts = path / "transcripts.jsonl"
        self.tokenizer = path / "tokenizer"
        self.features = path / "features.npz"
        self.responses = path / "heard"

    def state(self, run: str) -> Path:
        """Return the folder where the state of a run at hand is kept."""
        return self.path / run

    def has(self, name: str) -> bool:
        """Tell whether tensors of that name are there."""
        return self._tensors(name).is_file()

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors, whole or not at all."""
        contiguous = {key: value.detach().contiguous() for key, value in tensors.items()}
        atomic_write(self._tensors(name), save(contiguous))

    def read(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a name.

        Raises:
            CheckpointError: They are not there, or damaged.
        """
        path = self._tensors(name)
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} is damaged: {error}", hint="start anew with --fresh"
            ) from None

    def keep_list(self, name: str, items: Iterable[Tensor]) -> None:
        """Write a tensor a recording, in order."""
        self.keep(name, {str(index): item for index, item in enumerate(items)})

    def read_list(self, name: str) -> list[Tensor]:
        """Return what `keep_list` wrote; raises as `read` does."""
        stored = self.read(name)
        try:
            return [stored[str(index)] for index in range(len(stored))]
        except KeyError as error:
            raise CheckpointError(
                f"{self._tensors(name)} lacks {error}", hint="start anew with --fresh"
            ) from None

    def result(self, name: str) -> dict[str, Any] | None:
        """Return a finished step's result; `None` where it is not finished."""
        path = self.path / f"{name}.json"
        return read_json(path, CheckpointError) if path.is_file() else None

    def conclude(self, name: str, result: Mapping[str, Any]) -> None:
        """Write a step's result: from now on it is finished."""
        atomic_write(self.path / f"{name}.json", json.dumps(result).encode())

    def _tensors(self, name: str) -> Path:
        return self.path / f"{name}.safetensors"


class Comparison(ABC, Generic[R, Run]):
    """Every run of a recipe, from the same start; one of them becomes the checkpoint.

    Args:
        recipe: What to do.
        work: Where finished work is kept meanwhile.
    """

    report_name: ClassVar[str] = REPORT_NAME

    def __init__(self, recipe: R, work: WorkFolder) -> None:
        self.recipe = recipe
        self.work = work

    @classmethod
    def follow(cls, recipe: R, output: Path, *, resume: bool) -> Path:
        """Do every run that is not done yet, then write checkpoint and report.

        What is done is kept in `<output>.training`; after a kill it goes on from there. The
        folder goes away when all is done.

        Args:
            recipe: What to do.
            output: Checkpoint folder.
            resume: Go on with a comparison of the same recipe; False starts anew.

        Returns:
            The output folder.

        Raises:
            UsageError: The output cannot be written.
            ManifestError: The corpus cannot be used.
            CheckpointError: A backbone cannot be used, or the state is of another recipe.
        """
        work = claim_work(output, cls.report_name, recipe.digest, resume=resume)
        if work is None:
            return output
        torch.set_num_threads(recipe.threads)
        comparison = cls(recipe, WorkFolder(work))
        for run in comparison.runs():
            comparison.run(run)
        comparison.finish(output)
        shutil.rmtree(work, ignore_errors=True)
        return output

    @abstractmethod
    def runs(self) -> Iterable[Run]:
        """Return the runs, in order."""

    @abstractmethod
    def train(self, run: Run) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Do a run; return its result and the weights to keep, none where there are none."""

    @abstractmethod
    def finish(self, output: Path) -> None:
        """Write the checkpoint of the shipped run, and the report."""

    def name(self, run: Run) -> str:
        """Return a run's name, which its files bear: an item's, and its seed or fold behind it."""
        item, number = run if isinstance(run, tuple) else (run, None)
        name = item if isinstance(item, str) else item.name
        return name if number is None else f"{name}-{number}"

    def run(self, run: Run) -> None:
        """Do a run, unless that was done before."""
        name = f"run-{self.name(run)}"
        if self.work.result(name) is not None:
            return
        start = time.perf_counter()
        result, weights = self.train(run)
        if weights:
            self.work.keep(name, weights)
        seconds = round(time.perf_counter() - start, 1)
        self.work.conclude(name, {**result, "seconds": seconds})
        shutil.rmtree(self.work.state(self.name(run)), ignore_errors=True)

    def result(self, run: Run) -> dict[str, Any]:
        """Return a finished run's result.

        Raises:
            CheckpointError: It is not finished.
        """
        kept = self.work.result(f"run-{self.name(run)}")
        if kept is None:
            raise CheckpointError(f"the run {self.name(run)} is not finished", hint="run it again")
        return kept

    def weights(self, run: Run) -> dict[str, Tensor]:
        """Return the weights that a run kept; raises as `WorkFolder.read` does."""
        return self.work.read(f"run-{self.name(run)}")

    def report(self, **found: Any) -> dict[str, str]:
        """Return the report's file: what every report says, and what was found."""
        head = {"recipe": self.recipe.name, "recipe_sha256": self.recipe.digest}
        return {self.report_name: json.dumps({**head, **found}, indent=1) + "\n"}


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
            f"{output} holds something else", hint="choose another place or pass --fresh"
        )
    marker = work / "recipe.json"
    if marker.is_file():
        if read_json(marker, CheckpointError).get("sha256") != digest:
            raise CheckpointError(
                f"{work} holds a comparison of another recipe, or of this one before it changed",
                hint="start anew with --fresh, or choose another output folder",
            )
    else:
        work.mkdir(parents=True, exist_ok=True)
        atomic_write(marker, json.dumps({"sha256": digest}).encode())
    return work
