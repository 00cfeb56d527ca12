"""Training of the speech LLM: the projector first, then adapters under each objective.

The encoder is frozen, and so are the projector after its warm start and the language model's
layers without adapters: what leaves them is computed once and kept in the work folder.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asa_engine.errors import ManifestError, UsageError
from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.lm.checkpoint import backbone_source
from asa_engine.graders.lm.prompt import build_prompt
from asa_engine.graders.speech_llm.config import LoraConfig, SpeechLLMConfig
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.nn.audio_language_model import AudioEncoder, load_backbones
from asa_engine.nn.config import WHISPER_POSITIONS
from asa_engine.nn.language_model import load_tokenizer, sharing
from asa_engine.nn.lora import lora_counts
from asa_engine.objectives import (
    fair_average,
    label_cross_entropy,
    multi_target_mse,
    soft_label_cross_entropy,
)
from asa_engine.training.adapters import Schedule, fit_adapters
from asa_engine.training.comparison import Comparison, WorkFolder
from asa_engine.training.data import Corpus, epoch_order, load_corpus
from asa_engine.training.duration import DURATION_BINS, error_by_duration
from asa_engine.training.kernel_prior import NO_PRIOR, FittedPrior, fit_prior
from asa_engine.training.projector import warm_start
from asa_engine.training.recipe import shipped
from asa_engine.training.speech_llm.figures import (
    decodings,
    figures,
    of_recordings,
)
from asa_engine.training.speech_llm.frozen import (
    EVALUATION_BATCH,
    cut_chunks,
    fit_codebook,
    keep_tokens,
    through_layers,
)
from asa_engine.training.speech_llm.recipe import ObjectiveRecipe, SpeechLLMRecipe
from asa_engine.training.state import Progress

__all__ = ["objective_of", "train"]


Objective = Callable[[Tensor, Tensor], Tensor]


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Warm the projector up, train adapters with every objective, write one of them and a report.

    The projector, the frozen layers' outputs, each finished run, and every two minutes the state
    of the run at hand are kept.

    Args:
        recipe_path: TOML file.
        output: Checkpoint folder: config.json, weights.safetensors, training.json.
        resume: As `Comparison.follow` takes it, which tells the rest.
    """
    return SpeechLLMComparison.follow(
        SpeechLLMRecipe.load(recipe_path), Path(output), resume=resume
    )


def objective_of(kind: str, config: SpeechLLMConfig) -> Objective:
    """Return (answers [N, K], targets in scale units [N]) -> loss of one of `OBJECTIVES`."""
    scores = config.prompt.label_scores
    if kind == "fair_average":
        return lambda logits, target: fair_average(logits, target, scores)
    if kind == "soft_cross_entropy":
        return lambda logits, target: soft_label_cross_entropy(logits, target, scores)
    if kind == "cross_entropy":
        return lambda logits, target: label_cross_entropy(logits, target, scores)
    low, high = config.aspects[0].scale_min, config.aspects[0].scale_max

    def regression(answer: Tensor, target: Tensor) -> Tensor:
        wanted = (target - (low + high) / 2) / ((high - low) / 2)
        return multi_target_mse(answer, wanted[:, None])

    return regression


class SpeechLLMComparison(Comparison[SpeechLLMRecipe, ObjectiveRecipe]):
    """What all runs share: the corpus, the warm projector, the frozen layers' outputs."""

    def __init__(self, recipe: SpeechLLMRecipe, work: WorkFolder) -> None:
        super().__init__(recipe, work)
        self.learnt, self.dev, _ = load_corpus(
            recipe.sides(),
            recipe.data.scores,
            recipe.data.targets,
            recipe.data.limit,
            recipe.windows.front,
        )
        model_folder = backbone_source(recipe.backbones.language_model)
        self.encoder, self.language_model = load_backbones(
            backbone_source(recipe.backbones.encoder),
            model_folder,
            WHISPER_POSITIONS,
            None if recipe.fit.bf16 else torch.float32,
        )
        self.config = _config(recipe, self.encoder, self.language_model, model_folder)
        for corpus in (self.learnt, self.dev):
            _check_prior(recipe, corpus, self.config.chunk_s)
        torch.manual_seed(recipe.seed)
        self.projector: dict[str, Tensor] = {}
        start = self._grader(self.config)
        self.warm_dev: dict[str, float] = {}
        if isinstance(self.encoder, AudioEncoder):
            keep_tokens(start, self.learnt, self.dev, work)
        else:
            self.warm_dev = warm_start(start, recipe, self.learnt, self.dev, work)
            self.projector = start.projector.state_dict()
        self.prior = self._fit_prior()
        self.config = dataclasses.replace(self.config, prior=self.prior.config)
        if recipe.fit.bf16:
            self.language_model.to(torch.bfloat16)
        with torch.no_grad():
            frozen = self._grader(self.config)
            self.prefix = frozen.prefix(0, self.config.lora.first_layer).hidden
            self.owners = {
                name: cut_chunks(frozen, work.read_list(f"tokens-{name}"))[1]
                for name in ("train", "dev")
            }
        self.hidden: dict[str, list[Tensor]] = {}

    def _grader(self, config: SpeechLLMConfig) -> SpeechLLM:
        """Return a grader with the projector, prior and codebook that are there by now."""
        grader = SpeechLLM(config, self.encoder, sharing(self.language_model))
        if self.projector:
            grader.projector.load_state_dict(self.projector)
        if config.prior.centres:
            grader.prior.load_state_dict(self.prior.tensors)
        if grader.codebook is not None:
            grader.codebook.copy_(self._codebook(config.units))
        return grader

    def _codebook(self, units: int) -> Tensor:
        name = f"codebook-{units}"
        if not self.work.has(name):
            entries = fit_codebook(self.work.read_list("tokens-train"), units, self.recipe.seed)
            self.work.keep(name, {"codebook": entries})
        return self.work.read(name)["codebook"]

    def _fit_prior(self) -> FittedPrior:
        if not self.recipe.prior.share:
            return NO_PRIOR
        sums = self.work.read("sums-train")["sums"]
        return fit_prior(self.recipe.prior, self.learnt, sums.numpy())

    def _frozen(self, name: str, config: SpeechLLMConfig) -> list[Tensor]:
        """Return what leaves the layers without adapters, [n, W] a chunk, bfloat16."""
        kept = f"hidden-{name}" + (f"-{config.units}" if config.units else "")
        if not self.work.has(kept):
            with torch.no_grad():
                grader = self._grader(config)
            chunks, _ = cut_chunks(grader, self.work.read_list(f"tokens-{name}"))
            hidden = through_layers(
                grader, chunks, config.lora.first_layer, f"frozen layers, {name}"
            )
            self.work.keep_list(kept, (row.bfloat16() for row in hidden))
        return self.work.read_list(kept)

    def runs(self) -> Iterable[ObjectiveRecipe]:
        """Return the objectives."""
        return self.recipe.objectives

    def train(self, run: ObjectiveRecipe) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Train with one objective."""
        config = _answering(self.config, run)
        self.hidden = {name: self._frozen(name, config) for name in ("train", "dev")}
        torch.manual_seed(self.recipe.seed)
        with torch.no_grad():
            grader = self._grader(config)
        if run.start:
            before = self.work.read(f"run-{run.start}")
            before.pop("codebook", None)
            grader.load_state_dict(before, strict=False)
        grader.projector.requires_grad_(False)
        history = self._fit(grader, run) if self.recipe.epochs_of(run) else []
        grader.round_halves()
        answers = torch.from_numpy(self._answers(grader, "dev"))
        result: dict[str, Any] = {
            "history": history,
            "dev": decodings(grader, answers, self.dev, self.owners["dev"]),
        }
        if config.prior.centres:
            result["dev_with_prior"] = decodings(
                grader, self._pool(grader, answers), self.dev, self.owners["dev"]
            )
        return result, grader.tuned()

    def _fit(self, grader: SpeechLLM, item: ObjectiveRecipe) -> list[dict[str, Any]]:
        """Train adapters and head; return loss and dev figures of each epoch."""
        fit, seed = self.recipe.fit, self.recipe.seed
        objective = objective_of(item.kind, grader.config)
        targets = torch.from_numpy(self.learnt.targets[:, 0]).float()
        tuned = {k: v for k, v in grader.tuned().items() if v.requires_grad}
        epochs = range(self.recipe.epochs_of(item))
        order = [epoch_order(self.learnt, fit.batch_size, _rng(seed, e)) for e in epochs]
        batches = [(epoch, batch) for epoch, some in enumerate(order) for batch in some]
        schedule = Schedule(item.name, self.work, self.recipe, fit, len(batches))
        peaks = {
            name: (parameter, fit.head_lr if name.startswith("head.") else fit.lr)
            for name, parameter in tuned.items()
        }

        def losses(step: int) -> dict[str, Tensor]:
            epoch, batch = batches[step]
            answers = self._forward(grader, "train", self._heard(batch, epoch))
            return {"loss": objective(answers, targets[batch])}

        def look(progress: Progress) -> str | None:
            epoch = batches[progress.step - 1][0]
            if progress.step < len(batches) and batches[progress.step][0] == epoch:
                return None
            self._close_epoch(grader, progress, len(order[epoch]))
            return f"dev PCC {progress.history[-1]['dev_pcc']}"

        grader.set_dropout(0.0, fit.dropout)
        return fit_adapters(grader, peaks, schedule, losses, look)

    def _heard(self, batch: Sequence[int], epoch: int) -> list[int]:
        """Return the chunk of each recording that an epoch hears: of a long one, any."""
        chosen = []
        for item in batch:
            of_item = torch.nonzero(self.owners["train"] == item)[:, 0].tolist()
            rng = np.random.default_rng((self.recipe.seed, epoch, item))
            chosen.append(of_item[int(rng.integers(len(of_item)))])
        return chosen

    def _close_epoch(self, grader: SpeechLLM, progress: Progress, steps: int) -> None:
        answers = torch.from_numpy(self._answers(grader, "dev"))
        scores = of_recordings(grader.scores(answers), self.owners["dev"])
        progress.history.append(
            {
                "loss": round(progress.losses["loss"] / steps, 5),
                "dev_pcc": figures(scores, self.dev)["pcc"],
            }
        )
        progress.losses.clear()

    def _pool(self, grader: SpeechLLM, answers: Tensor) -> Tensor:
        """Return answers of the dev side pooled with the prior, where there is one."""
        if not self.config.prior.centres:
            return answers
        sums = self.work.read("sums-dev")["sums"]
        # A few at a time: each is compared with every centre.
        return grader.prior.pool(
            answers, torch.cat([grader.prior(x) for x in torch.split(sums, 32)])
        )

    def _forward(self, grader: SpeechLLM, side: str, batch: Sequence[int]) -> Tensor:
        """Return answers [N, K] of chunks from what left the frozen layers."""
        first = grader.config.lora.first_layer
        above = grader.prefix(first, grader.layers, self.prefix)
        hidden = [self.hidden[side][i].to(grader.language_model.dtype) for i in batch]
        return grader.answer(grader.run(hidden, first, grader.layers, above))

    @torch.inference_mode()
    def _answers(self, grader: SpeechLLM, side: str) -> NDArray[np.float32]:
        """Return answers of all chunks of a side, [C, K]."""
        grader.eval()
        lengths = [len(item) for item in self.hidden[side]]
        order = np.argsort(lengths, kind="stable")
        found: dict[int, Tensor] = {}
        for some in np.array_split(order, math.ceil(len(order) / EVALUATION_BATCH)):
            answers = self._forward(grader, side, some.tolist())
            found.update(zip(some.tolist(), answers, strict=True))
        return torch.stack([found[i] for i in range(len(order))]).numpy()

    def finish(self, output: Path) -> None:
        """Score the dev side with the shipped run in float32; write its checkpoint and report."""
        item = shipped(self.recipe.objectives, self.recipe.ship)
        config = _answering(self.config, item)
        self.language_model.float()
        with torch.no_grad():
            grader = self._grader(config)
        grader.load_state_dict(self.weights(item), strict=False)
        grader.eval()
        hidden = through_layers(
            grader,
            cut_chunks(grader, self.work.read_list("tokens-dev"))[0],
            grader.layers,
            "dev in float32",
        )
        with torch.inference_mode():
            answers = torch.cat([grader.answer([item]) for item in hidden])
            low, high = config.aspects[0].scale_min, config.aspects[0].scale_max
            said = of_recordings(grader.scores(self._pool(grader, answers)), self.owners["dev"])
            scores = said.clamp(low, high).numpy()
        report = {
            "seed": self.recipe.seed,
            "shipped": item.name,
            "adapters": lora_counts(grader),
            "train": {"n": len(self.learnt)},
            "dev": {"n": len(self.dev), **figures(torch.from_numpy(scores), self.dev)},
            "warm_start": self.warm_dev,
            "prior": self.prior.figures,
            "objectives": {run.name: self.result(run) for run in self.runs()},
        }
        aspect = config.aspects[0]
        predicted, seconds = scores[:, 0].astype(np.float64), self.dev.durations_s()
        error = error_by_duration(seconds, predicted, self.dev.scores[:, 0], DURATION_BINS)
        grader.config = dataclasses.replace(
            config, aspects=(dataclasses.replace(aspect, sd=error),)
        )
        grader.save(output, overwrite=True, extra=self.report(**report))


def _config(
    recipe: SpeechLLMRecipe, encoder: Any, language_model: Any, folder: str | Path
) -> SpeechLLMConfig:
    prompt, data = recipe.prompt, recipe.data
    own = encoder.config if isinstance(encoder, AudioEncoder) else None
    if own is not None and recipe.prior.share:
        raise UsageError(
            f"the recipe {recipe.name}: there is no prior on the {own.family} encoder",
            hint="leave [prior] share at 0, or name a Whisper as the encoder",
        )
    return recipe.checked(
        SpeechLLMConfig(
            aspects=(AspectConfig(data.score, scale_min=data.scale_min, scale_max=data.scale_max),),
            prompt=build_prompt(
                load_tokenizer(folder),
                prompt.prefix,
                prompt.suffix,
                prompt.labels,
                prompt.label_scores,
            ),
            backbones=dataclasses.asdict(recipe.backbones),
            encoder=encoder.config,
            language_model=language_model.config,
            lora=LoraConfig.of(language_model.config.family, **dataclasses.asdict(recipe.adapter)),
            **dataclasses.asdict(recipe.windows),
            stack=recipe.projector.stack if own is None else own.stack,
            projector_width=recipe.projector.width,
        )
    )


def _answering(config: SpeechLLMConfig, item: ObjectiveRecipe) -> SpeechLLMConfig:
    """Return the configuration of a run: regressions have a head in place of labels."""
    config = dataclasses.replace(config, units=item.units)
    if item.kind != "regression":
        return config
    prompt = dataclasses.replace(config.prompt, labels=(), label_scores=(), label_ids=())
    return dataclasses.replace(config, prompt=prompt, answer="regression")


def _check_prior(recipe: SpeechLLMRecipe, corpus: Corpus, chunk_s: float) -> None:
    """Refuse a prior where recordings are longer than a chunk: it is fitted on whole ones."""
    for utterance, seconds in zip(corpus.utterances, corpus.durations_s(), strict=True):
        if recipe.prior.share and seconds > chunk_s:
            raise ManifestError(
                f"{utterance.id} lasts {seconds:.1f} s, longer than a chunk of {chunk_s:g} s, "
                "which the prior is fitted on",
                hint="leave [prior] share at 0, or train on recordings of one chunk each",
            )


def _rng(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng((seed, epoch))
