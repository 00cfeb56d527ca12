"""Training of the multi-aspect grader: every system of a recipe with every seed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from asa_engine.assessment import Word
from asa_engine.evaluation.manifest import Utterance
from asa_engine.graders.multi_aspect import reference
from asa_engine.graders.multi_aspect.baselines import Baseline, class_weights
from asa_engine.graders.multi_aspect.model import Inputs, MultiAspectGrader
from asa_engine.objectives.ordinal import AdjacentDistances, mmo
from asa_engine.training.adapters import risen_cosine
from asa_engine.training.comparison import Comparison, WorkFolder
from asa_engine.training.multi_aspect.corpus import (
    Side,
    compute_examples,
    load_examples,
    split_sides,
)
from asa_engine.training.multi_aspect.recipe import MULTI_ASPECT, MultiAspectRecipe, SystemRecipe
from asa_engine.training.multi_aspect.report import calibrated, pictures, summary
from asa_engine.training.transcripts import transcribe

__all__ = ["train"]

GRADIENT_NORM = 2.0
EVALUATION_BATCH = 64


class Backbones(reference.Backbones):
    """The frozen models, with the words that the recogniser hears in a corpus."""

    def transcribe(
        self, utterances: Sequence[Utterance], cache: Path
    ) -> Mapping[str, tuple[Word, ...]]:
        """Return the words of every recording, from a cache where they are there."""
        heard = transcribe(utterances, cache, name=self._config.backbones["recogniser"])
        return {key: transcript.words for key, transcript in heard.items()}


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Train every system with every seed; write the shipped run's checkpoint and the report.

    Args:
        recipe_path: TOML file.
        output: Checkpoint folder: config.json, weights.safetensors, training.json and pictures.
        resume: As `Comparison.follow` takes it, which tells the rest.
    """
    recipe = MultiAspectRecipe.load(recipe_path)
    return MultiAspectComparison.follow(recipe, Path(output), resume=resume)


class _System(nn.Module):
    """A network, and the learned distances of its MMO objective."""

    def __init__(self, item: SystemRecipe, recipe: MultiAspectRecipe, train: Side) -> None:
        super().__init__()
        config = recipe.config
        self.recipe = recipe
        self.classes = len(config.classes)
        self.is_mmo = item.objective == "mmo"
        self.only_head = False
        self.network: MultiAspectGrader | Baseline = (
            MultiAspectGrader(config) if item.kind == MULTI_ASPECT else Baseline(item.kind, config)
        )
        _standardise(self.network, train)
        self.distances = nn.ModuleList(AdjacentDistances(self.classes) for _ in config.aspects)
        self.weights = [
            class_weights(train.counts(a, self.classes)) if item.kind.endswith("_pt") else None
            for a in range(len(config.aspects))
        ]

    def forward(self, inputs: Inputs, transcript: Tensor) -> Tensor:
        """Return logits [B, A, C]."""
        if isinstance(self.network, MultiAspectGrader):
            logits: Tensor = self.network(inputs)
        else:
            logits = self.network(inputs, transcript)
        return logits

    def begin_second_phase(self) -> None:
        """Leave all but the last layer as it is; cross-entropy alone from now on."""
        self.only_head = True
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(("network.head.", "network.prototypes.")))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the objective, the mean over aspects."""
        fit = self.recipe.fit
        share = fit.mmo_share if self.is_mmo and not self.only_head else 0.0
        total = logits.new_zeros(())
        for aspect, distances in enumerate(self.distances):
            z, y = logits[:, aspect], labels[:, aspect]
            total = total + (1 - share) * F.cross_entropy(z, y, self.weights[aspect])
            if share:
                total = total + share * mmo(z, y, distances(), fit.mmo_reduction)
        return total / len(self.distances)


def _standardise(network: nn.Module, train: Side) -> None:
    """Set what brings frames and delivery features to mean 0 and deviation 1."""
    for name in ("frame", "delivery"):
        if not hasattr(network, f"{name}_mean"):
            continue
        rows = [e.frames if name == "frame" else e.delivery for e in train.examples]
        count = sum(map(len, rows))
        mean = np.sum([row.sum(0, dtype=np.float64) for row in rows], axis=0) / count
        spread = np.sum([((row - mean) ** 2).sum(0) for row in rows], axis=0) / count
        getattr(network, f"{name}_mean").copy_(torch.from_numpy(mean))
        scale = 1 / np.sqrt(np.maximum(spread, 1e-8))
        getattr(network, f"{name}_scale").copy_(torch.from_numpy(scale))


Run = tuple[SystemRecipe, int]
"""A system and a seed."""


class MultiAspectComparison(Comparison[MultiAspectRecipe, Run]):
    """What all runs share: the corpus with its frozen features."""

    def __init__(self, recipe: MultiAspectRecipe, work: WorkFolder) -> None:
        super().__init__(recipe, work)
        sides = recipe.sides()
        path = work.features
        if not path.is_file():
            backbones = Backbones(recipe.config)
            compute_examples(
                sides.all,
                backbones.transcribe(sides.all, work.transcripts),
                recipe.config,
                encode=backbones.encode,
                vector=backbones.vector,
                analyser=backbones.analyser,
                path=path,
            )
        self.learnt, self.dev = split_sides(
            sides, load_examples(path), recipe.config, recipe.data.targets
        )

    def runs(self) -> Iterable[Run]:
        """Return every system with every seed."""
        return itertools.product(self.recipe.systems, self.recipe.seeds)

    def train(self, run: Run) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Train one system with one seed; keep the weights of what is shipped."""
        item, seed = run
        torch.manual_seed(seed)
        system = _System(item, self.recipe, self.learnt)
        losses = self._fit(system, f"{item.name} {seed}", seed)
        if isinstance(system.network, MultiAspectGrader):
            system.network.round_halves()
        system.eval()
        result = {
            "losses": losses,
            "dev_logits": self._logits(system).tolist(),
            "distances": [d().tolist() for d in system.distances] if system.is_mmo else None,
            "parameters": sum(p.numel() for p in system.network.parameters()),
        }
        shipped = (item.name, seed) == (self.recipe.ship, self.recipe.seeds[0])
        return result, system.network.state_dict() if shipped else {}

    def _fit(self, system: _System, title: str, seed: int) -> list[float]:
        """Train; return the mean loss of each epoch."""
        fit = self.recipe.fit
        means = self._epochs(system, title, np.random.default_rng(seed), fit.epochs)
        if system.is_mmo and fit.head_epochs:
            system.begin_second_phase()
            rng = np.random.default_rng((seed, 2))
            means += self._epochs(system, f"{title}, head", rng, fit.head_epochs)
        return means

    def _epochs(
        self, system: _System, title: str, rng: np.random.Generator, epochs: int
    ) -> list[float]:
        fit = self.recipe.fit
        parameters = [p for p in system.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": fit.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ]
        )
        labels = torch.from_numpy(self.learnt.labels)
        steps = epochs * math.ceil(len(self.learnt) / fit.batch_size)
        step, means = 0, []
        for epoch in range(epochs):
            system.train()
            total = 0.0
            batches = list(self.learnt.batches(fit.batch_size, rng))
            name = f"{title}, epoch {epoch + 1} of {epochs}"
            for batch in tqdm(batches, desc=name, unit="", leave=False):
                rate = risen_cosine(step, steps, fit.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = rate * fit.lr
                inputs, transcript = self.learnt.inputs(batch)
                kept = torch.from_numpy(rng.random(len(batch)) >= fit.no_prompt)
                inputs = inputs._replace(prompt=inputs.prompt * kept[:, None])
                loss = system.loss(system(inputs, transcript), labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(system.network.parameters(), GRADIENT_NORM)
                optimizer.step()
                total += loss.item() * len(batch)
                step += 1
            means.append(round(total / len(self.learnt), 5))
        return means

    @torch.inference_mode()
    def _logits(self, system: _System) -> NDArray[np.float64]:
        """Return the dev side's logits, [n, A, C]."""
        config = self.recipe.config
        logits = np.zeros((len(self.dev), len(config.aspects), len(config.classes)))
        for batch in self.dev.batches(EVALUATION_BATCH):
            logits[batch] = system(*self.dev.inputs(batch)).numpy()
        return logits

    def finish(self, output: Path) -> None:
        """Write the checkpoint of the shipped run, the report and the pictures."""
        recipe = self.recipe
        runs = {
            item.name: [self.result((item, seed)) for seed in recipe.seeds]
            for item in recipe.systems
        }
        config = calibrated(recipe.config, self.dev, np.array(runs[recipe.ship][0]["dev_logits"]))
        report = {
            "shipped": {"system": recipe.ship, "seed": recipe.seeds[0]},
            "seeds": list(recipe.seeds),
            "fit": dataclasses.asdict(recipe.fit),
            **summary(runs, self.learnt, self.dev, config),
            "seconds": round(
                sum(run["seconds"] for of_seeds in runs.values() for run in of_seeds), 1
            ),
        }
        grader = MultiAspectGrader(config)
        shipped = next(item for item in recipe.systems if item.name == recipe.ship)
        grader.load_state_dict(self.weights((shipped, recipe.seeds[0])))
        extra = {**self.report(**report), **pictures(report, config)}
        grader.save(output, overwrite=True, extra=extra)
