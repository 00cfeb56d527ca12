"""Training of the speech LLM: the projector first, then adapters under each objective.

The encoder is frozen, and so are the projector after its warm start and the language model's
layers without adapters: what leaves them is computed once and kept in the work folder.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from asa_engine.errors import CheckpointError, ManifestError, UsageError
from asa_engine.files import atomic_write, read_json
from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.speech_llm.checkpoint import backbone_source
from asa_engine.graders.speech_llm.config import LoraConfig, SpeechLLMConfig
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.graders.speech_llm.prompt import build_prompt
from asa_engine.graders.speech_llm.recipe import ObjectiveRecipe, SpeechLLMRecipe
from asa_engine.nn.audio_language_model import AudioEncoder, load_backbones
from asa_engine.nn.language_model import load_tokenizer
from asa_engine.objectives import (
    fair_average,
    label_cross_entropy,
    multi_target_mse,
    soft_label_cross_entropy,
)
from asa_engine.recipes import claim_work
from asa_engine.training.adapters import Schedule, fit_adapters
from asa_engine.training.data import Corpus, epoch_order, load_corpus
from asa_engine.training.kernel_prior import NO_PRIOR, FittedPrior, fit_prior
from asa_engine.training.projector import warm_start
from asa_engine.training.speech_llm_figures import decodings, error_by_duration, figures
from asa_engine.training.speech_llm_frozen import (
    EVALUATION_BATCH,
    fit_codebook,
    keep_tokens,
    through_layers,
)
from asa_engine.training.state import Progress

__all__ = ["objective_of", "train"]

REPORT_NAME = "training.json"

Objective = Callable[[Tensor, Tensor], Tensor]


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Warm the projector up, train adapters with every objective, write one of them and a report.

    What is done is kept in `<output>.training`: the projector, the frozen layers' outputs, each
    finished run, and every two minutes the state of the run at hand. After a kill it goes on from
    there; the folder goes away when all is done.

    Args:
        recipe_path: TOML file.
        output: Checkpoint folder: config.json, weights.safetensors, training.json.
        resume: Go on with a comparison of the same recipe; False starts anew.

    Returns:
        The output folder.

    Raises:
        UsageError: The recipe is wrong, or the output cannot be written.
        ManifestError: The corpus cannot be used.
        CheckpointError: A backbone cannot be used, or the state is of another recipe.
    """
    recipe, output = SpeechLLMRecipe.load(Path(recipe_path)), Path(output)
    work = claim_work(output, REPORT_NAME, recipe.digest, resume=resume)
    if work is None:
        return output
    torch.set_num_threads(recipe.threads)
    comparison = _Comparison(recipe, work)
    for item in recipe.objectives:
        comparison.run(item)
    comparison.finish(output)
    shutil.rmtree(work, ignore_errors=True)
    return output


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


class _Comparison:
    """What all runs share: the corpus, the warm projector, the frozen layers' outputs."""

    def __init__(self, recipe: SpeechLLMRecipe, work: Path) -> None:
        self.recipe = recipe
        self.work = work
        aspects = (recipe.data.score, *recipe.data.also)
        self.train, self.dev, _ = load_corpus(
            recipe.manifest_path(), aspects, recipe.data.targets, recipe.data.limit
        )
        model_folder = backbone_source(recipe.backbones.language_model)
        self.encoder, self.language_model = load_backbones(
            backbone_source(recipe.backbones.encoder), model_folder, 1500
        )
        self.config = _config(recipe, self.encoder, self.language_model, model_folder)
        for corpus in (self.train, self.dev):
            _check_lengths(corpus, self.config.chunk_s)
        torch.manual_seed(recipe.seed)
        self.projector: dict[str, Tensor] = {}
        start = self._grader(self.config)
        self.warm_dev: dict[str, float] = {}
        if isinstance(self.encoder, AudioEncoder):
            keep_tokens(start, self.train, self.dev, work)
        else:
            self.warm_dev = warm_start(start, recipe, self.train, self.dev, work)
            self.projector = start.projector.state_dict()
        self.prior = self._fit_prior()
        self.config = dataclasses.replace(self.config, prior=self.prior.config)
        if recipe.fit.bf16:
            self.language_model.to(torch.bfloat16)
        with torch.no_grad():
            frozen = self._grader(self.config)
            self.prefix = frozen.prefix(0, self.config.lora.first_layer).hidden
        self.hidden: dict[str, list[Tensor]] = {}

    def _grader(self, config: SpeechLLMConfig) -> SpeechLLM:
        """Return a grader with the projector, prior and codebook that are there by now."""
        grader = SpeechLLM(config, self.encoder, copy.deepcopy(self.language_model))
        if self.projector:
            grader.projector.load_state_dict(self.projector)
        if config.prior.centres:
            grader.prior.load_state_dict(self.prior.tensors)
        if grader.codebook is not None:
            grader.codebook.copy_(self._codebook(config.units))
        return grader

    def _tokens(self, name: str) -> list[Tensor]:
        found = load_file(self.work / f"tokens-{name}.safetensors")
        return [found[str(i)] for i in range(len(found))]

    def _codebook(self, units: int) -> Tensor:
        path = self.work / f"codebook-{units}.safetensors"
        if not path.is_file():
            entries = fit_codebook(self._tokens("train"), units, self.recipe.seed)
            atomic_write(path, save({"codebook": entries}))
        return load_file(path)["codebook"]

    def _fit_prior(self) -> FittedPrior:
        if not self.recipe.prior.share:
            return NO_PRIOR
        sums = load_file(self.work / "sums-train.safetensors")["sums"]
        return fit_prior(self.recipe.prior, self.train, sums.numpy())

    def _frozen(self, name: str, config: SpeechLLMConfig) -> list[Tensor]:
        """Return what leaves the layers without adapters, [n, W] a recording, bfloat16."""
        kind = f"-{config.units}" if config.units else ""
        path = self.work / f"hidden-{name}{kind}.safetensors"
        if not path.is_file():
            first = config.lora.first_layer
            with torch.no_grad():
                grader = self._grader(config)
            found = through_layers(grader, self._tokens(name), first, f"frozen layers, {name}")
            atomic_write(path, save({str(i): x.bfloat16() for i, x in enumerate(found)}))
        try:
            stored = load_file(path)
            return [stored[str(i)] for i in range(len(stored))]
        except (SafetensorError, KeyError) as error:
            raise CheckpointError(
                f"{path} is damaged: {error}", mend="start anew with --fresh"
            ) from None

    def run(self, item: ObjectiveRecipe) -> None:
        """Train with one objective, unless it was done before."""
        path = self._path(item, "json")
        if path.is_file():
            return
        start = time.perf_counter()
        config = _answering(self.config, item)
        self.hidden = {name: self._frozen(name, config) for name in ("train", "dev")}
        torch.manual_seed(self.recipe.seed)
        with torch.no_grad():
            grader = self._grader(config)
        if item.start:
            before = load_file(self.work / f"run-{item.start}.safetensors")
            before.pop("codebook", None)
            grader.load_state_dict(before, strict=False)
        grader.projector.requires_grad_(False)
        history = self._fit(grader, item)
        grader.round_halves()
        answers = torch.from_numpy(self._answers(grader, "dev"))
        result = {
            "history": history,
            "dev": decodings(grader, answers, self.dev),
            "seconds": round(time.perf_counter() - start, 1),
        }
        if config.prior.centres:
            result["dev_with_prior"] = decodings(grader, self._pool(grader, answers), self.dev)
        tensors = {name: value.detach().contiguous() for name, value in grader.tuned().items()}
        atomic_write(self._path(item, "safetensors"), save(tensors))
        atomic_write(path, json.dumps(result).encode())
        shutil.rmtree(self.work / item.name, ignore_errors=True)

    def _fit(self, grader: SpeechLLM, item: ObjectiveRecipe) -> list[dict[str, Any]]:
        """Train adapters and head; return loss and dev figures of each epoch."""
        fit, seed = self.recipe.fit, self.recipe.seed
        objective = objective_of(item.kind, grader.config)
        targets = torch.from_numpy(self.train.targets[:, 0]).float()
        tuned = {k: v for k, v in grader.tuned().items() if v.requires_grad}
        epochs = range(item.epochs or fit.epochs)
        order = [epoch_order(self.train, fit.batch_size, _rng(seed, e)) for e in epochs]
        batches = [(epoch, batch) for epoch, some in enumerate(order) for batch in some]
        schedule = Schedule(
            title=item.name,
            folder=self.work / item.name,
            digest=self.recipe.digest,
            seed=seed,
            steps=len(batches),
            warmup=fit.warmup,
            weight_decay=fit.weight_decay,
        )
        peaks = {
            name: (parameter, fit.head_lr if name.startswith("head.") else fit.lr)
            for name, parameter in tuned.items()
        }

        def losses(step: int) -> dict[str, Tensor]:
            batch = batches[step][1]
            return {"loss": objective(self._forward(grader, "train", batch), targets[batch])}

        def look(progress: Progress) -> str | None:
            epoch = batches[progress.step - 1][0]
            if progress.step < len(batches) and batches[progress.step][0] == epoch:
                return None
            self._close_epoch(grader, progress, len(order[epoch]))
            return f"dev PCC {progress.history[-1]['dev_pcc']}"

        grader.set_dropout(0.0, fit.dropout)
        return fit_adapters(grader, peaks, schedule, losses, look)

    def _close_epoch(self, grader: SpeechLLM, progress: Progress, steps: int) -> None:
        scores = grader.scores(torch.from_numpy(self._answers(grader, "dev")))
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
        sums = load_file(self.work / "sums-dev.safetensors")["sums"]
        # A few at a time: each is compared with every centre.
        return grader.prior.pool(
            answers, torch.cat([grader.prior(x) for x in torch.split(sums, 32)])
        )

    def _forward(self, grader: SpeechLLM, side: str, batch: Sequence[int]) -> Tensor:
        """Return answers [N, K] of recordings from what left the frozen layers."""
        first = grader.config.lora.first_layer
        above = grader.prefix(first, grader.layers, self.prefix)
        hidden = [self.hidden[side][i].to(grader.language_model.dtype) for i in batch]
        return grader.answer(grader.run(hidden, first, grader.layers, above))

    @torch.inference_mode()
    def _answers(self, grader: SpeechLLM, side: str) -> NDArray[np.float32]:
        """Return answers of all recordings of a side, [n, K]."""
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
        item = self.recipe.shipped
        config = _answering(self.config, item)
        self.language_model.float()
        with torch.no_grad():
            grader = self._grader(config)
        grader.load_state_dict(load_file(self._path(item, "safetensors")), strict=False)
        grader.eval()
        hidden = through_layers(grader, self._tokens("dev"), grader.layers, "dev in float32")
        with torch.inference_mode():
            answers = torch.cat([grader.answer([item]) for item in hidden])
            low, high = config.aspects[0].scale_min, config.aspects[0].scale_max
            scores = grader.scores(self._pool(grader, answers)).clamp(low, high).numpy()
        runs = {
            run.name: read_json(self._path(run, "json"), CheckpointError)
            for run in self.recipe.objectives
        }
        report = {
            "recipe": self.recipe.name,
            "recipe_sha256": self.recipe.digest,
            "seed": self.recipe.seed,
            "shipped": item.name,
            "train": {"n": len(self.train)},
            "dev": {"n": len(self.dev), **figures(torch.from_numpy(scores), self.dev)},
            "warm_start": self.warm_dev,
            "prior": self.prior.figures,
            "objectives": runs,
        }
        aspect = config.aspects[0]
        error = error_by_duration(self.dev, scores[:, 0])
        grader.config = dataclasses.replace(
            config, aspects=(dataclasses.replace(aspect, sd=error),)
        )
        grader.save(
            output, overwrite=True, extra={REPORT_NAME: json.dumps(report, indent=1) + "\n"}
        )

    def _path(self, item: ObjectiveRecipe, suffix: str) -> Path:
        return self.work / f"run-{item.name}.{suffix}"


def _config(
    recipe: SpeechLLMRecipe, encoder: Any, language_model: Any, folder: str | Path
) -> SpeechLLMConfig:
    prompt, data = recipe.prompt, recipe.data
    own = encoder.config if isinstance(encoder, AudioEncoder) else None
    if own is not None and recipe.prior.share:
        raise UsageError(
            f"the recipe {recipe.name}: there is no prior on the {own.family} encoder",
            mend="leave [prior] share at 0, or name a Whisper as the encoder",
        )
    config = SpeechLLMConfig(
        aspects=(AspectConfig(data.score, scale_min=data.scale_min, scale_max=data.scale_max),),
        prompt=build_prompt(
            load_tokenizer(folder), prompt.prefix, prompt.suffix, prompt.labels, prompt.label_scores
        ),
        backbones=dataclasses.asdict(recipe.backbones),
        encoder=encoder.config,
        language_model=language_model.config,
        lora=LoraConfig.of(language_model.config.family, **dataclasses.asdict(recipe.adapter)),
        **dataclasses.asdict(recipe.windows),
        stack=recipe.projector.stack if own is None else own.stack,
        projector_width=recipe.projector.width,
    )
    try:
        return SpeechLLMConfig.from_dict(config.to_dict())
    except CheckpointError as error:
        raise UsageError(f"the recipe {recipe.name}: {error.message}", mend="mend it") from None


def _answering(config: SpeechLLMConfig, item: ObjectiveRecipe) -> SpeechLLMConfig:
    """Return the configuration of a run: regressions have a head in place of labels."""
    config = dataclasses.replace(config, units=item.units)
    if item.kind != "regression":
        return config
    prompt = dataclasses.replace(config.prompt, labels=(), label_scores=(), label_ids=())
    return dataclasses.replace(config, prompt=prompt, answer="regression")


def _check_lengths(corpus: Corpus, chunk_s: float) -> None:
    for utterance, seconds in zip(corpus.utterances, corpus.durations_s(), strict=True):
        if seconds > chunk_s:
            raise ManifestError(
                f"{utterance.id} lasts {seconds:.1f} s, longer than a chunk of {chunk_s:g} s",
                mend="train on recordings of one chunk each",
            )


def _rng(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng((seed, epoch))
