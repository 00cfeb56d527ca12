"""Training of the text grader: every objective with every seed, and one of the runs to ship."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from asa_engine.backbones import backbone_folder
from asa_engine.errors import CheckpointError
from asa_engine.features.word_pieces import TOKENIZER_NAME, WordPieces
from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.text.config import TextConfig
from asa_engine.graders.text.model import TextGrader, masked_mean
from asa_engine.nn.bert import load_bert, shape_of
from asa_engine.objectives import (
    balanced_logit_variation,
    cross_entropy,
    focal_loss,
    variation_scales,
)
from asa_engine.recogniser import FATAL
from asa_engine.training.adapters import risen_cosine
from asa_engine.training.comparison import Comparison, WorkFolder
from asa_engine.training.pictures import confusion_svg
from asa_engine.training.recipe import shipped
from asa_engine.training.text.corpus import (
    MANIFEST_TRANSCRIPTS,
    Side,
    attention_bias,
    frozen_outputs,
    given_transcripts,
    load_sides,
    padded,
    read_transcripts,
)
from asa_engine.training.text.recipe import ObjectiveRecipe, TextRecipe
from asa_engine.training.text.report import (
    dev_error,
    expected_scores,
    summary,
)
from asa_engine.training.transcripts import transcribe

__all__ = ["objective_of", "train"]

GRADIENT_NORM = 1.0
EVALUATION_BATCH = 64

Objective = Callable[[Tensor, Tensor], Tensor]


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Train with every objective and seed; write the shipped run's checkpoint and the report.

    Args:
        recipe_path: TOML file.
        output: Checkpoint folder: config.json, weights.safetensors, training.json, and the
            confusion matrices as a picture.
        resume: As `Comparison.follow` takes it, which tells the rest.
    """
    return TextComparison.follow(TextRecipe.load(recipe_path), Path(output), resume=resume)


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


Run = tuple[ObjectiveRecipe, int]
"""An objective and a seed."""


class TextComparison(Comparison[TextRecipe, Run]):
    """What all runs share: the corpus, and the outputs of BERT's frozen layers."""

    def __init__(self, recipe: TextRecipe, work: WorkFolder) -> None:
        super().__init__(recipe, work)
        source = recipe.encoder.source
        folder = Path(source) if source else backbone_folder(recipe.encoder.backbone)
        self.bert = load_bert(source or folder)
        self.tokenizer = _tokenizer(source, folder, work.tokenizer)
        pieces = WordPieces.open(self.tokenizer, recipe.encoder.max_pieces)
        self.sides = recipe.sides()
        self.learnt, self.dev = load_sides(
            self.sides,
            recipe.data,
            recipe.classes.cuts,
            self._transcripts,
            pieces,
        )
        self.config = _config(recipe, self.bert.config, self.learnt)
        self.frozen = self.config.encoder.layers - self.config.tuned_layers
        self.hidden: dict[str, list[Tensor]] = {}
        if not self.config.tuned_embeddings:
            self.hidden = {
                "train": frozen_outputs(self.bert, self.learnt, self.frozen),
                "dev": frozen_outputs(self.bert, self.dev, self.frozen),
            }

    def _transcripts(self) -> dict[str, str]:
        if (name := self.recipe.data.transcripts) == MANIFEST_TRANSCRIPTS:
            return given_transcripts(self.sides.all)
        if name:
            path = Path(name)
            return read_transcripts(path if path.is_file() else self.recipe.folder / name)
        with tqdm(desc="recordings heard", unit="", leave=False) as bar:

            def progress(done: int, of: int) -> None:
                bar.total = of
                bar.update(done - bar.n)

            heard = transcribe(
                self.sides.all,
                self.work.transcripts,
                name=self.recipe.recogniser,
                progress=progress,
            )
        # What could not be scored is not trained on either.
        return {
            key: "" if set(transcript.reasons) & set(FATAL) else transcript.text
            for key, transcript in heard.items()
        }

    def runs(self) -> Iterable[Run]:
        """Return every objective with every seed."""
        return itertools.product(self.recipe.objectives, self.recipe.seeds)

    def train(self, run: Run) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Train once; keep the dev side's logits, and the weights of each first run."""
        item, seed = run
        torch.manual_seed(seed)
        grader = TextGrader(self.config, copy.deepcopy(self.bert))
        losses = self._fit(grader, item, seed)
        grader.round_halves()
        grader.eval()
        result = {"losses": losses, "dev_logits": self._logits(grader).tolist()}
        return result, grader.tuned() if seed == self.recipe.seeds[0] else {}

    def _fit(self, grader: TextGrader, item: ObjectiveRecipe, seed: int) -> list[float]:
        """Train the top layers and the head; return the mean loss of each epoch."""
        fit = self.recipe.fit
        rng = np.random.default_rng(seed)
        noise = torch.Generator().manual_seed(seed)
        objective = objective_of(item, self.learnt.counts(len(self.config.classes)), noise)
        labels = torch.from_numpy(self.learnt.labels)
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
        steps = fit.epochs * math.ceil(len(self.learnt) / fit.batch_size)
        step, means = 0, []
        for epoch in range(fit.epochs):
            grader.train()
            total = 0.0
            title = f"{item.name} {seed}, epoch {epoch + 1} of {fit.epochs}"
            batches = list(self.learnt.batches(fit.batch_size, rng))
            for batch in tqdm(batches, desc=title, unit="", leave=False):
                rate = risen_cosine(step, steps, fit.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["peak"]
                loss = objective(self._forward(grader, "train", batch), labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters.values(), GRADIENT_NORM)
                optimizer.step()
                total += loss.item() * len(batch)
                step += 1
            means.append(round(total / len(self.learnt), 5))
        return means

    def _forward(self, grader: TextGrader, side: str, batch: list[int]) -> Tensor:
        """Return logits of a batch from its frozen layers' outputs, or from its word pieces."""
        if self.config.tuned_embeddings:
            pieces = (self.learnt if side == "train" else self.dev).pieces
            ids, mask = padded([torch.tensor(pieces[i]) for i in batch])
            hidden = grader.bert.embeddings(input_ids=ids)
        else:
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
        seeds = self.recipe.seeds
        runs = {
            item.name: [self.result((item, seed)) for seed in seeds]
            for item in self.recipe.objectives
        }
        logits = {
            name: np.array([run["dev_logits"] for run in of_seeds])
            for name, of_seeds in runs.items()
        }
        aspect = self.config.aspect
        table = dev_error(self.dev, expected_scores(logits[self.recipe.ship][0], self.config))
        config = dataclasses.replace(self.config, aspects=(dataclasses.replace(aspect, sd=table),))
        report = {
            "shipped": {"objective": self.recipe.ship, "seed": self.recipe.seeds[0]},
            "seeds": list(self.recipe.seeds),
            "classes": list(self.config.classes),
            "class_scores": list(self.config.class_scores),
            "train": {"n": len(self.learnt), "classes": self._counts(self.learnt)},
            "dev": {"n": len(self.dev), "classes": self._counts(self.dev)},
            "nothing_heard": {"train": list(self.learnt.empty), "dev": list(self.dev.empty)},
            **summary(logits, self.dev, self.config),
            "losses": {
                name: [run["losses"] for run in of_seeds] for name, of_seeds in runs.items()
            },
            "seconds": round(
                sum(run["seconds"] for of_seeds in runs.values() for run in of_seeds), 1
            ),
        }
        grader = TextGrader(config, self.bert)
        grader.load_state_dict(
            self.weights((shipped(self.recipe.objectives, self.recipe.ship), seeds[0])),
            strict=False,
        )
        grader.save(
            output,
            {
                **self.report(**report),
                "confusion.svg": confusion_svg(report["confusion"], config.classes),
            },
            tokenizer=self.tokenizer,
            overwrite=True,
        )

    def _counts(self, side: Side) -> list[int]:
        return side.counts(len(self.config.classes))


def _config(recipe: TextRecipe, bert: Any, train: Side) -> TextConfig:
    """Return the grader's configuration; a class's score is the mean score of its examples."""
    classes, encoder = recipe.classes, recipe.encoder
    backbones = {"recogniser": recipe.recogniser}
    if encoder.backbone:
        backbones["text_encoder"] = encoder.backbone
    means = [float(train.scores[train.labels == k].mean()) for k in range(len(classes.names))]
    return recipe.checked(
        TextConfig(
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
            tuned_embeddings=encoder.tuned_embeddings,
            backbones=backbones,
            max_pieces=encoder.max_pieces,
            dropout=recipe.fit.dropout,
        )
    )


def _tokenizer(source: str, folder: Path, fetched: Path) -> Path:
    """Return the path of the encoder's `tokenizer.json`, fetched from the hub if need be."""
    if not source or folder.is_dir():
        return folder / TOKENIZER_NAME
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(fetched)
    except Exception as failure:  # transformers raises whatever its many readers raise
        raise CheckpointError(f"{source} has no tokenizer that can be read: {failure}") from None
    return fetched / TOKENIZER_NAME
