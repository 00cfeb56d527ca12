"""Training of the multi-aspect grader: every system of a recipe with every seed."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from asa_engine.errors import CheckpointError
from asa_engine.files import atomic_write, read_json
from asa_engine.graders.multi_aspect.baselines import Baseline, class_weights
from asa_engine.graders.multi_aspect.corpus import (
    Side,
    compute_examples,
    load_examples,
    split_sides,
)
from asa_engine.graders.multi_aspect.model import Inputs, MultiAspectGrader
from asa_engine.graders.multi_aspect.recipe import MULTI_ASPECT, MultiAspectRecipe, SystemRecipe
from asa_engine.graders.multi_aspect.reference import Backbones
from asa_engine.graders.multi_aspect.report import REPORT_NAME, calibrated, pictures, summary
from asa_engine.manifest import read_manifest
from asa_engine.objectives.ordinal import AdjacentDistances, mmo
from asa_engine.recipes import claim_work

__all__ = ["train"]

GRADIENT_NORM = 2.0
EVALUATION_BATCH = 64
FEATURES_NAME = "features.npz"


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Train every system with every seed; write the shipped run's checkpoint and the report.

    Features and finished runs are kept in `<output>.training`; after a kill the comparison goes
    on with the next run. The folder goes away when all is done.

    Args:
        recipe_path: TOML file.
        output: Checkpoint folder: config.json, weights.safetensors, training.json and pictures.
        resume: Go on with a comparison of the same recipe; False starts anew.

    Returns:
        The output folder.

    Raises:
        UsageError: The recipe is wrong, or the output cannot be written.
        ManifestError: The corpus cannot be used.
        CheckpointError: A backbone cannot be used, or the state is of another recipe.
    """
    recipe, output = MultiAspectRecipe.load(Path(recipe_path)), Path(output)
    work = claim_work(output, REPORT_NAME, recipe.digest, resume=resume)
    if work is None:
        return output
    torch.set_num_threads(recipe.threads)
    comparison = _Comparison(recipe, work)
    for item in recipe.systems:
        for seed in recipe.seeds:
            comparison.run(item, seed)
    comparison.finish(output)
    shutil.rmtree(work, ignore_errors=True)
    return output


class _System(nn.Module):
    """A network, and the learned distances of its MMO objective."""

    def __init__(self, item: SystemRecipe, recipe: MultiAspectRecipe, train: Side) -> None:
        super().__init__()
        config = recipe.config
        self.recipe = recipe
        self.classes = len(config.classes)
        self.is_mmo = item.objective == "mmo"
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

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the objective, the mean over aspects."""
        share = self.recipe.fit.mmo_share if self.is_mmo else 0.0
        total = logits.new_zeros(())
        for aspect, distances in enumerate(self.distances):
            z, y = logits[:, aspect], labels[:, aspect]
            total = total + (1 - share) * F.cross_entropy(z, y, self.weights[aspect])
            if share:
                total = total + share * mmo(z, y, distances())
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


class _Comparison:
    """What all runs share: the corpus with its frozen features."""

    def __init__(self, recipe: MultiAspectRecipe, work: Path) -> None:
        self.recipe, self.work = recipe, work
        manifest = recipe.manifest_path()
        utterances = read_manifest(manifest)
        path = work / FEATURES_NAME
        if not path.is_file():
            backbones = Backbones(recipe.config)
            compute_examples(
                utterances,
                backbones.transcribe(manifest, work / "transcripts.jsonl"),
                recipe.config,
                encode=backbones.encode,
                vector=backbones.vector,
                analyser=backbones.analyser,
                path=path,
            )
        self.train, self.dev = split_sides(utterances, load_examples(path), recipe.config)

    def run(self, item: SystemRecipe, seed: int) -> None:
        """Train one system with one seed, unless that has been done."""
        path = self._run_path(item, seed)
        if path.is_file():
            return
        start = time.perf_counter()
        torch.manual_seed(seed)
        system = _System(item, self.recipe, self.train)
        losses = self._fit(system, f"{item.name} {seed}", seed)
        if isinstance(system.network, MultiAspectGrader):
            system.network.round_halves()
        system.eval()
        logits = self._logits(system)
        if (item.name, seed) == (self.recipe.ship, self.recipe.seeds[0]):
            atomic_write(self.work / "shipped.safetensors", save(system.network.state_dict()))
        result = {
            "losses": losses,
            "dev_logits": logits.tolist(),
            "distances": [d().tolist() for d in system.distances] if system.is_mmo else None,
            "parameters": sum(p.numel() for p in system.network.parameters()),
            "seconds": round(time.perf_counter() - start, 1),
        }
        atomic_write(path, json.dumps(result).encode())

    def _fit(self, system: _System, title: str, seed: int) -> list[float]:
        """Train; return the mean loss of each epoch."""
        fit = self.recipe.fit
        rng = np.random.default_rng(seed)
        parameters = list(system.parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": fit.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ]
        )
        labels = torch.from_numpy(self.train.labels)
        steps = fit.epochs * math.ceil(len(self.train) / fit.batch_size)
        step, means = 0, []
        for epoch in range(fit.epochs):
            system.train()
            total = 0.0
            batches = list(self.train.batches(fit.batch_size, rng))
            name = f"{title}, epoch {epoch + 1} of {fit.epochs}"
            for batch in tqdm(batches, desc=name, unit="", leave=False):
                rise = min(1.0, (step + 1) / max(1.0, fit.warmup * steps))
                rate = rise * 0.5 * (1 + math.cos(math.pi * step / steps))
                for group in optimizer.param_groups:
                    group["lr"] = rate * fit.lr
                inputs, transcript = self.train.inputs(batch)
                kept = torch.from_numpy(rng.random(len(batch)) >= fit.no_prompt)
                inputs = inputs._replace(prompt=inputs.prompt * kept[:, None])
                loss = system.loss(system(inputs, transcript), labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(system.network.parameters(), GRADIENT_NORM)
                optimizer.step()
                total += loss.item() * len(batch)
                step += 1
            means.append(round(total / len(self.train), 5))
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
            item.name: [read_json(self._run_path(item, s), CheckpointError) for s in recipe.seeds]
            for item in recipe.systems
        }
        config = calibrated(recipe.config, self.dev, np.array(runs[recipe.ship][0]["dev_logits"]))
        report = {
            "recipe": recipe.name,
            "recipe_sha256": recipe.digest,
            "shipped": {"system": recipe.ship, "seed": recipe.seeds[0]},
            "seeds": list(recipe.seeds),
            "fit": dataclasses.asdict(recipe.fit),
            **summary(runs, self.train, self.dev, config),
            "seconds": round(sum(run["seconds"] for found in runs.values() for run in found), 1),
        }
        grader = MultiAspectGrader(config)
        grader.load_state_dict(load_file(self.work / "shipped.safetensors"))
        extra = {REPORT_NAME: json.dumps(report, indent=1) + "\n", **pictures(report, config)}
        grader.save(output, overwrite=True, extra=extra)

    def _run_path(self, item: SystemRecipe, seed: int) -> Path:
        return self.work / f"run-{item.name}-{seed}.json"
