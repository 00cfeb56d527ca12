"""Training of the text grader: every objective with every seed, and one of the runs to ship."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from asa_engine.backbones import backbone_folder
from asa_engine.errors import CheckpointError, UsageError
from asa_engine.features.word_pieces import TOKENIZER_NAME, WordPieces
from asa_engine.files import atomic_write, read_json
from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.text.config import TextConfig
from asa_engine.graders.text.corpus import (
    Side,
    attention_bias,
    frozen_outputs,
    load_sides,
    padded,
    read_transcripts,
)
from asa_engine.graders.text.model import TextGrader, masked_mean
from asa_engine.graders.text.recipe import ObjectiveRecipe, TextRecipe
from asa_engine.graders.text.report import (
    error_by_duration,
    expected_scores,
    summary,
)
from asa_engine.nn.bert import load_bert, shape_of
from asa_engine.objectives import (
    balanced_logit_variation,
    cross_entropy,
    focal_loss,
    variation_scales,
)
from asa_engine.pictures import confusion_svg
from asa_engine.recipes import claim_work
from asa_engine.recogniser import FATAL
from asa_engine.recogniser.corpus import transcribe

__all__ = ["objective_of", "train"]

REPORT_NAME = "training.json"
GRADIENT_NORM = 1.0
EVALUATION_BATCH = 64

Objective = Callable[[Tensor, Tensor], Tensor]


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Train with every objective and seed; write the shipped run's checkpoint and the report.

    Finished runs are kept in `<output>.training`; after a kill the comparison goes on with the
    next one. The folder goes away when all is done.

    Args:
        recipe_path: TOML file.
        output: Checkpoint folder: config.json, weights.safetensors, training.json, and the
            confusion matrices as a picture.
        resume: Go on with a comparison of the same recipe; False starts anew.

    Returns:
        The output folder.

    Raises:
        UsageError: The recipe is wrong, or the output cannot be written.
        ManifestError: The corpus cannot be used.
        CheckpointError: A backbone cannot be used, or the state is of another recipe.
    """
    recipe, output = TextRecipe.load(Path(recipe_path)), Path(output)
    work = claim_work(output, REPORT_NAME, recipe.digest, resume=resume)
    if work is None:
        return output
    torch.set_num_threads(recipe.threads)
    comparison = _Comparison(recipe, work)
    for item in recipe.objectives:
        for seed in recipe.seeds:
            comparison.run(item, seed)
    comparison.finish(output)
    shutil.rmtree(work, ignore_errors=True)
    return output


def objective_of(item: ObjectiveRecipe, counts: list[int], generator: torch.Generator) -> Objective:
    """Return (logits, target) -> loss of one objective of a recipe.

    Args:
        item: The objective.
        counts: Training examples of each class.
        generator: Where the BLV loss draws its noise from.
    """
    if item.kind == "cross_entropy":
        return cross_entropy
    if item.kind == "focal":
        return lambda logits, target: focal_loss(logits, target, item.gamma)
    scales = variation_scales(counts)
    return lambda logits, target: balanced_logit_variation(
        logits, target, scales, item.sigma, item.clamp, generator
    )


class _Comparison:
    """What all runs share: the corpus, and the outputs of BERT's frozen layers."""

    def __init__(self, recipe: TextRecipe, work: Path) -> None:
        self.recipe = recipe
        self.work = work
        source = recipe.encoder.source
        folder = Path(source) if source else backbone_folder(recipe.encoder.backbone)
        self.bert = load_bert(source or folder)
        self.tokenizer = _tokenizer(source, folder, work)
        pieces = WordPieces.open(self.tokenizer, recipe.encoder.max_pieces)
        self.train, self.dev = load_sides(
            recipe.manifest_path(),
            recipe.data.score,
            recipe.classes.cuts,
            self._transcripts,
            pieces,
        )
        self.config = _config(recipe, self.bert.config, self.train)
        self.frozen = self.config.encoder.layers - self.config.tuned_layers
        self.hidden = {
            "train": frozen_outputs(self.bert, self.train, self.frozen),
            "dev": frozen_outputs(self.bert, self.dev, self.frozen),
        }

    def _transcripts(self) -> dict[str, str]:
        if name := self.recipe.data.transcripts:
            path = Path(name)
            return read_transcripts(path if path.is_file() else self.recipe.folder / name)
        with tqdm(desc="recordings heard", unit="", leave=False) as bar:

            def progress(done: int, of: int) -> None:
                bar.total = of
                bar.update(done - bar.n)

            heard = transcribe(
                self.recipe.manifest_path(),
                self.work / "transcripts.jsonl",
                name=self.recipe.recogniser,
                progress=progress,
            )
        # What could not be scored is not trained on either.
        return {
            key: "" if set(transcript.reasons) & set(FATAL) else transcript.text
            for key, transcript in heard.items()
        }

    def run(self, item: ObjectiveRecipe, seed: int) -> None:
        """Train once, unless it was done before; keep the dev side's logits."""
        path = self._run_path(item, seed)
        if path.is_file():
            return
        start = time.perf_counter()
        torch.manual_seed(seed)
        grader = TextGrader(self.config, copy.deepcopy(self.bert))
        losses = self._fit(grader, item, seed)
        grader.round_halves()
        grader.eval()
        logits = self._logits(grader)
        if seed == self.recipe.seeds[0]:
            tensors = {name: value.detach() for name, value in grader.tuned().items()}
            atomic_write(self.work / f"{item.name}.safetensors", save(tensors))
        result = {
            "losses": losses,
            "dev_logits": logits.tolist(),
            "seconds": round(time.perf_counter() - start, 1),
        }
        atomic_write(path, json.dumps(result).encode())

    def _fit(self, grader: TextGrader, item: ObjectiveRecipe, seed: int) -> list[float]:
        """Train the top layers and the head; return the mean loss of each epoch."""
        fit = self.recipe.fit
        rng = np.random.default_rng(seed)
        noise = torch.Generator().manual_seed(seed)
        objective = objective_of(item, self.train.counts(len(self.config.classes)), noise)
        labels = torch.from_numpy(self.train.labels)
        parameters = grader.tuned()
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": [parameter],
                    "peak": fit.head_lr if name.startswith("head.") else fit.lr,
                    "weight_decay": fit.weight_decay if parameter.ndim > 1 else 0.0,
                }
                for name, parameter in parameters.items()
            ]
        )
        steps = fit.epochs * math.ceil(len(self.train) / fit.batch_size)
        step, means = 0, []
        for epoch in range(fit.epochs):
            grader.train()
            total = 0.0
            title = f"{item.name} {seed}, epoch {epoch + 1} of {fit.epochs}"
            batches = list(self.train.batches(fit.batch_size, rng))
            for batch in tqdm(batches, desc=title, unit="", leave=False):
                rate = _rate(step, steps, fit.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["peak"]
                loss = objective(self._forward(grader, "train", batch), labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters.values(), GRADIENT_NORM)
                optimizer.step()
                total += loss.item() * len(batch)
                step += 1
            means.append(round(total / len(self.train), 5))
        return means

    def _forward(self, grader: TextGrader, side: str, batch: list[int]) -> Tensor:
        """Return logits of a batch from its frozen layers' outputs."""
        hidden, mask = padded([self.hidden[side][i] for i in batch])
        bias = attention_bias(mask)
        for layer in grader.bert.encoder.layer[self.frozen :]:
            hidden = layer(hidden, bias)
        return grader.classify(masked_mean(hidden, mask))

    @torch.inference_mode()
    def _logits(self, grader: TextGrader) -> NDArray[np.float64]:
        """Return the dev side's logits, [n, C]."""
        logits = np.zeros((len(self.dev), len(self.config.classes)))
        for batch in self.dev.batches(EVALUATION_BATCH):
            logits[batch] = self._forward(grader, "dev", batch).numpy()
        return logits

    def finish(self, output: Path) -> None:
        """Write the checkpoint of the shipped run, the report and the confusion matrices."""
        runs = {
            item.name: [
                read_json(self._run_path(item, seed), CheckpointError) for seed in self.recipe.seeds
            ]
            for item in self.recipe.objectives
        }
        logits = {
            name: np.array([run["dev_logits"] for run in found]) for name, found in runs.items()
        }
        shipped = logits[self.recipe.ship][0]
        aspect = self.config.aspect
        table = error_by_duration(self.dev, expected_scores(shipped, self.config))
        config = dataclasses.replace(self.config, aspects=(dataclasses.replace(aspect, sd=table),))
        report = {
            "recipe": self.recipe.name,
            "recipe_sha256": self.recipe.digest,
            "shipped": {"objective": self.recipe.ship, "seed": self.recipe.seeds[0]},
            "seeds": list(self.recipe.seeds),
            "classes": list(self.config.classes),
            "class_scores": list(self.config.class_scores),
            "train": {"n": len(self.train), "classes": self._counts(self.train)},
            "dev": {"n": len(self.dev), "classes": self._counts(self.dev)},
            "nothing_heard": {"train": list(self.train.empty), "dev": list(self.dev.empty)},
            **summary(logits, self.dev, self.config),
            "losses": {name: [run["losses"] for run in found] for name, found in runs.items()},
            "seconds": round(sum(run["seconds"] for found in runs.values() for run in found), 1),
        }
        grader = TextGrader(config, self.bert)
        shipped_weights = load_file(self.work / f"{self.recipe.ship}.safetensors")
        grader.load_state_dict(shipped_weights, strict=False)
        grader.save(
            output,
            {
                REPORT_NAME: json.dumps(report, indent=1) + "\n",
                "confusion.svg": confusion_svg(report["confusion"], config.classes),
            },
            tokenizer=self.tokenizer,
            overwrite=True,
        )

    def _counts(self, side: Side) -> list[int]:
        return side.counts(len(self.config.classes))

    def _run_path(self, item: ObjectiveRecipe, seed: int) -> Path:
        return self.work / f"run-{item.name}-{seed}.json"


def _config(recipe: TextRecipe, bert: Any, train: Side) -> TextConfig:
    """Return the grader's configuration; a class's score is the mean score of its examples."""
    classes, encoder = recipe.classes, recipe.encoder
    backbones = {"recogniser": recipe.recogniser}
    if encoder.backbone:
        backbones["text_encoder"] = encoder.backbone
    means = [float(train.scores[train.labels == k].mean()) for k in range(len(classes.names))]
    config = TextConfig(
        aspects=(
            AspectConfig(
                name=recipe.data.score,
                scale_min=classes.scale_min,
                scale_max=classes.scale_max,
                level_cuts=classes.cuts,
                level_names=classes.names,
            ),
        ),
        class_scores=tuple(round(mean, 4) for mean in means),
        encoder=shape_of(bert),
        tuned_layers=encoder.tuned_layers,
        backbones=backbones,
        max_pieces=encoder.max_pieces,
        dropout=recipe.fit.dropout,
    )
    try:
        return TextConfig.from_dict(config.to_dict())
    except CheckpointError as error:
        raise UsageError(f"the recipe {recipe.name}: {error.message}", mend="mend it") from None


def _tokenizer(source: str, folder: Path, work: Path) -> Path:
    """Return the path of the encoder's `tokenizer.json`, fetched from the hub if need be."""
    if not source or folder.is_dir():
        return folder / TOKENIZER_NAME
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(source).save_pretrained(work / "tokenizer")
    except Exception as failure:  # transformers raises whatever its many readers raise
        raise CheckpointError(f"{source} has no tokenizer that can be read: {failure}") from None
    return work / "tokenizer" / TOKENIZER_NAME


def _rate(step: int, steps: int, warmup: float) -> float:
    rise = min(1.0, (step + 1) / max(1.0, warmup * steps))
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))
