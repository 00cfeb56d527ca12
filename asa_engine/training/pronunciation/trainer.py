"""The training run: hear, lay, learn on folds, learn on everybody, write the checkpoint.

    targets   which frame is which phone, by texts laid over their recordings
    phones    the phone layer, once a fold and once on everybody
    text      transformer over the phones of a known text, once a fold and once on everybody
    free      the same without a text
    kernel    the regressors beside them, chosen on the folds
    verdicts  words left out, speech put in, other texts

Every step is kept, and so is what Whisper heard; a killed run goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asa_engine.errors import ManifestError
from asa_engine.graders.pronunciation.measures import Array
from asa_engine.training.comparison import Comparison, WorkFolder
from asa_engine.training.pronunciation.checkpoint import write_checkpoint
from asa_engine.training.pronunciation.kernel import choose_kernel, fit_kernel
from asa_engine.training.pronunciation.network_fit import (
    Example,
    Scaling,
    fit_network,
    rows_of,
    say,
    scaling_of,
)
from asa_engine.training.pronunciation.phones import (
    Weights,
    learn_fold,
    learn_targets,
    spans_of,
    usual_lengths,
)
from asa_engine.training.pronunciation.recipe import PronunciationRecipe
from asa_engine.training.pronunciation.report import Outcome, calibrated, report_of
from asa_engine.training.pronunciation.source import open_source
from asa_engine.training.pronunciation.studio import Read, Studio
from asa_engine.training.pronunciation.verdict_fit import Verdicts, learn_verdicts
from asa_engine.training.subnormals import flushed_subnormals

__all__ = ["train"]

Step = tuple[str, int]
JUDGES = ("text", "free")
_TOLD, _WORDS = "told", "words"


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Train the grader; write its checkpoint and report.

    Args:
        recipe_path: TOML file.
        output: Checkpoint folder: config.json, weights.safetensors, vocabulary, training.json.
        resume: As `Comparison.follow` takes it, which tells the rest.
    """
    recipe = PronunciationRecipe.load(recipe_path)
    with flushed_subnormals():
        return PronunciationTraining.follow(recipe, Path(output), resume=resume)


class PronunciationTraining(Comparison[PronunciationRecipe, Step]):
    """The steps of one recipe, in order."""

    def __init__(self, recipe: PronunciationRecipe, work: WorkFolder) -> None:
        super().__init__(recipe, work)
        self.source = open_source(recipe, work.path)
        self.studio = Studio(recipe, self.source, work.path)
        self.folds = recipe.data.folds

    def runs(self) -> Iterable[Step]:
        """Return every step; fold number `folds` stands for everybody."""
        every = range(self.folds + 1)
        steps: list[Step] = [("targets", 0), *(("phones", k) for k in every)]
        for judge in JUDGES:
            steps += [(judge, k) for k in every]
            steps.append((f"kernel-{judge}", 0))
        return [*steps, ("verdicts", 0)]

    def train(self, run: Step) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Do a step."""
        kind, number = run
        if kind == "targets":
            _, lessons = self.studio.lessons()
            targets = learn_targets(lessons, self.recipe.phones, self.recipe.seed)
            return {}, {str(i): torch.from_numpy(one) for i, one in enumerate(targets)}
        if kind == "phones":
            return {}, _tensors(self._learn_phones(number))
        if kind == "verdicts":
            verdicts = self._learn_verdicts()
            return verdicts.figures, _tensors(verdicts.tensors)
        if kind.startswith("kernel-"):
            return self._fit_kernel(kind.removeprefix("kernel-"))
        return {}, self._fit_judge(kind, number)

    def finish(self, output: Path) -> None:
        """Write the checkpoint and the report."""
        outcome = self._outcome()
        verdicts = self.weights(("verdicts", 0))
        tensors: dict[str, Array] = {"usual": self.usual, **_arrays(verdicts)}
        tensors |= self.layer(self.folds)
        for judge in JUDGES:
            own = _arrays(self.weights((judge, self.folds)))
            own |= _arrays(self.weights((f"kernel-{judge}", 0)))
            aspects = outcome.readings[0].scores.size
            own["blend"] = np.full(aspects, self.recipe.judge.blend, np.float32)
            kept = {name: value for name, value in own.items() if not name.startswith("held.")}
            tensors |= {f"{judge}.{name}": value for name, value in kept.items()}
        figures = self.result(("verdicts", 0))
        config = calibrated(self.source.config, outcome, figures)
        kernels = {judge: self.result((f"kernel-{judge}", 0)) for judge in JUDGES}
        report = self.report(**report_of(config, outcome, figures, kernels))
        write_checkpoint(output, config, self.source, tensors, report)

    def layer(self, number: int) -> Weights:
        """Return the phone layer of a fold, or of everybody."""
        return _arrays(self.weights(("phones", number)))

    @cached_property
    def layers(self) -> dict[int, Weights]:
        """Fold -> the phone layer that has not heard it."""
        return {k: self.layer(k) for k in range(self.folds)}

    @cached_property
    def usual(self) -> Array:
        """How long each phone usually is."""
        kept, lessons = self.studio.lessons()
        spans = []
        for fold in range(self.folds):
            some = [x for i, x in zip(kept, lessons, strict=True) if self.studio.folds[i] == fold]
            spans += list(zip(some, spans_of(self.layers[fold], some), strict=True))
        return usual_lengths([x.classes for x, _ in spans], [found[0] for _, found in spans])

    @cached_property
    def reads(self) -> dict[str, list[Read]]:
        """Every reading in numbers: as the corpus transcribes it, by a dictionary, made worse."""
        found = {
            name: self.studio.read(self.layers, self.usual, told=name == _TOLD)
            for name in (_TOLD, _WORDS)
        }
        if self.recipe.data.worse:
            found["worse"] = self.studio.read_worse(self.layers, self.usual)
        return found

    def _learn_phones(self, number: int) -> Weights:
        kept, lessons = self.studio.lessons()
        stored = self.work.read("run-targets-0")
        some = [i for i, at in enumerate(kept) if self.studio.folds[at] != number]
        return learn_fold(
            [lessons[i].frames for i in some],
            [stored[str(i)].numpy() for i in some],
            self.recipe.phones,
            self.recipe.seed + number,
        )

    def _fit_judge(self, judge: str, number: int) -> dict[str, Tensor]:
        """Train a judge without a fold; keep what it says of the fold."""
        how = self.recipe.judge
        # Without a text there are no pronunciations to choose from.
        names = [name for name in self.reads if judge == "text" or name != _TOLD]
        learnt = [
            one
            for name in names
            if name != _WORDS or judge == "free"
            for read in self.reads[name]
            if self.studio.folds[read.reading] != number
            and (one := getattr(read, judge)) is not None
        ]
        if not learnt:
            raise ManifestError(
                f"hardly a phone was heard in all {len(self.studio.readings)} recordings",
                hint="train on more of them, or longer: [data] limit, [phones] epochs",
            )
        scaling = scaling_of(learnt, how, self.recipe.kernel.width)
        targets = [one.targets for one in learnt]
        network, levels = fit_network(
            rows_of(learnt, scaling), targets, how, self.recipe.seed + number
        )
        tensors = _tensors({**scaling.tensors, **levels}) | network.state()
        for name in (_TOLD, _WORDS) if number < self.folds else ():
            held = [
                (read.reading, one)
                for read in self.reads[name]
                if self.studio.folds[read.reading] == number
                and (one := getattr(read, judge)) is not None
            ]
            said = say(network, rows_of([one for _, one in held], scaling), levels)
            parts = {
                "index": np.array([index for index, _ in held]),
                "scores": np.stack([one.scores for one in said]),
                "words": np.concatenate([one.words for one in said]),
                "phones": np.concatenate([one.phones for one in said]),
            }
            tensors |= {
                f"held.{name}.{part}": torch.from_numpy(value) for part, value in parts.items()
            }
        return tensors

    def _fit_kernel(self, judge: str) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Choose a regressor on the folds; fit it beside the judge of everybody."""
        examples: list[tuple[int, Example]] = [
            (read.reading, one)
            for read in self.reads[_WORDS]
            if (one := getattr(read, judge)) is not None
        ]
        index = np.array([at for at, _ in examples])
        readings = [self.studio.readings[at] for at in index]
        # The judge's own scaling: both see the same standardised numbers.
        scaling = self.weights((judge, self.folds))
        rows = rows_of([one for _, one in examples], Scaling(_arrays(scaling)))
        raters = np.stack([reading.raters for reading in readings])
        scores = np.stack([reading.scores for reading in readings])
        chosen = choose_kernel(rows, raters, scores, self.studio.folds[index], self.recipe.kernel)
        found = {
            "gamma": chosen.gamma,
            "share": chosen.share,
            "ridge": chosen.ridge,
            "mean_pcc": round(chosen.figure, 4),
        }
        tensors = _tensors(fit_kernel(rows, raters, chosen))
        tensors["held.index"] = torch.from_numpy(index)
        tensors["held.scores"] = torch.from_numpy(chosen.predicted)
        return found, tensors

    def _learn_verdicts(self) -> Verdicts:
        cases = {
            kind: self.studio.cases(kind, self.reads[_WORDS], self.layers, self.usual)
            for kind in ("cut", "short", "other")
        }
        return learn_verdicts(
            self.reads[_WORDS], cases, self.studio.folds, self.recipe.verdicts, self.recipe.seed
        )

    def _outcome(self) -> Outcome:
        """Gather what was said of every reading by those who had not heard its speaker."""
        blend = self.recipe.judge.blend
        said: dict[str, dict[int, NDArray[np.float64]]] = {}
        words: dict[str, dict[int, Array]] = {}
        phones: dict[str, dict[int, Array]] = {}
        for judge in JUDGES:
            kernel = self.weights((f"kernel-{judge}", 0))
            beside = dict(
                zip(kernel["held.index"].tolist(), kernel["held.scores"].numpy(), strict=True)
            )
            for name in (_TOLD, _WORDS):
                scores, own_words, own_phones = self._held(judge, name)
                key = judge if name == _WORDS else f"{judge}-{name}"
                said[key] = {
                    index: blend * value + (1 - blend) * beside[index]
                    for index, value in scores.items()
                    if index in beside
                }
                words[key], phones[key] = own_words, own_phones
        return Outcome(
            self.studio.readings,
            said,
            words,
            phones,
            {read.reading: read.text for read in self.reads[_WORDS] if read.text is not None},
            {read.reading: read.text for read in self.reads[_TOLD] if read.text is not None},
        )

    def _held(
        self, judge: str, name: str
    ) -> tuple[dict[int, Array], dict[int, Array], dict[int, Array]]:
        examples = {read.reading: getattr(read, judge) for read in self.reads[name]}
        scores: dict[int, Array] = {}
        words: dict[int, Array] = {}
        phones: dict[int, Array] = {}
        for fold in range(self.folds):
            kept = _arrays(self.weights((judge, fold)))
            index = kept[f"held.{name}.index"].astype(int).tolist()
            scores |= dict(zip(index, kept[f"held.{name}.scores"], strict=True))
            if judge == "free":
                continue
            at_word = at_phone = 0
            for one in index:
                example = examples[one]
                counts = len(example.targets.words), len(example.targets.phones)
                words[one] = kept[f"held.{name}.words"][at_word : at_word + counts[0]]
                phones[one] = kept[f"held.{name}.phones"][at_phone : at_phone + counts[1]]
                at_word, at_phone = at_word + counts[0], at_phone + counts[1]
        return scores, words, phones


def _tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: value.numpy() for name, value in tensors.items()}
