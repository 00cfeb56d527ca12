"""Training of the session grader: projector, acoustic prior, then adapters and regression.

Encoder and language model are frozen, and so are the projector after its warm start and the prior
after its own training. What was heard of every recording is computed once and kept.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.files import atomic_write, read_json
from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.speech_llm.checkpoint import backbone_source
from asa_engine.graders.speech_llm.config import LoraConfig, SpeechLLMConfig
from asa_engine.graders.speech_llm.prompt import build_prompt, encode_template
from asa_engine.graders.speech_llm.session import SessionLLM
from asa_engine.graders.speech_llm.session_config import (
    OVERALL,
    PartConfig,
    PriorConfig,
    SessionConfig,
)
from asa_engine.graders.speech_llm.session_recipe import SessionRecipe, SessionRunRecipe
from asa_engine.nn.language_model import load_language_model, load_tokenizer
from asa_engine.nn.weights import load_whisper_encoder
from asa_engine.objectives import multi_target_mse
from asa_engine.recipes import claim_work
from asa_engine.session import read_sessions
from asa_engine.training.adapters import Schedule, fit_adapters
from asa_engine.training.data import load_corpus
from asa_engine.training.projector import warm_start
from asa_engine.training.session_data import Example, load_speakers, shuffled
from asa_engine.training.session_figures import agreement, figures, with_errors
from asa_engine.training.session_prior import fit_prior, fold_of
from asa_engine.training.state import Progress

__all__ = ["train"]

REPORT_NAME = "training.json"
LOOKS = 2
"""How often, evenly spread, a run's dev sessions are scored."""
MOST_TIMES = 4
"""So many more sessions cut short than whole ones a step may hold."""


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Train every run of a session recipe, write one of them and a report.

    What is done is kept in `<output>.training`, like in `asa_engine.training.speech_llm.train`.

    Args:
        recipe_path: TOML file.
        output: Checkpoint folder: config.json, weights.safetensors, training.json.
        resume: Go on with a comparison of the same recipe; False starts anew.

    Returns:
        The output folder.

    Raises:
        UsageError: The recipe is wrong, or the output cannot be written.
        ManifestError: Recordings or sessions cannot be used.
        CheckpointError: A backbone cannot be used, or the state is of another recipe.
    """
    recipe, output = SessionRecipe.load(Path(recipe_path)), Path(output)
    work = claim_work(output, REPORT_NAME, recipe.digest, resume=resume)
    if work is None:
        return output
    torch.set_num_threads(recipe.threads)
    comparison = _Comparison(recipe, work)
    for item in recipe.runs:
        comparison.run(item)
    comparison.finish(output)
    shutil.rmtree(work, ignore_errors=True)
    return output


class _Comparison:
    """What all runs share: the sessions as they were heard, and the priors."""

    def __init__(self, recipe: SessionRecipe, work: Path) -> None:
        self.recipe = recipe
        self.work = work
        sessions = read_sessions(recipe.find(recipe.data.sessions))
        parts = [part.name for part in sessions[0].parts]
        model_folder = backbone_source(recipe.backbones.language_model)
        self.encoder = load_whisper_encoder(backbone_source(recipe.backbones.encoder), 1500)
        self.language_model = load_language_model(model_folder)
        tokenizer = load_tokenizer(model_folder)
        self.names = build_prompt(tokenizer, "", "", recipe.prior.names).label_ids
        self.config = _config(recipe, parts, self.encoder, self.language_model, tokenizer)
        torch.manual_seed(recipe.seed)
        start = self._grader(self.config)
        aspects = (recipe.data.score, *recipe.data.also)
        manifest = recipe.find(recipe.data.manifest)
        train, dev, _ = load_corpus(manifest, aspects, recipe.data.targets)
        self.warm_dev = warm_start(start.speech, recipe, train, dev, work)
        self.projector = start.speech.projector.state_dict()
        pairs = zip(train.utterances, train.targets[:, 0].tolist(), strict=True)
        scores = {utterance.audio: score for utterance, score in pairs}
        self.train, self.dev = load_speakers(sessions, scores, start, work / "heard")
        self.priors = [
            fit_prior(self.config, recipe.prior, self.train, recipe.seed, fold)
            for fold in range(recipe.prior.folds)
        ]
        self.prior = fit_prior(self.config, recipe.prior, self.train, recipe.seed)
        if recipe.fit.bf16:
            self.language_model.to(torch.bfloat16)

    def _grader(self, config: SessionConfig) -> SessionLLM:
        return SessionLLM(config, self.encoder, copy.deepcopy(self.language_model))

    def run(self, item: SessionRunRecipe) -> None:
        """Train one grader, unless it was done before."""
        path = self._path(item, "json")
        if path.is_file():
            return
        start = time.perf_counter()
        torch.manual_seed(self.recipe.seed)
        grader = self._grader(_placed(self.config, item))
        self._begin(grader)
        history = self._fit(grader, item)
        grader.round_halves()
        result = {
            "history": history,
            "dev": figures(grader.config, self._scores(grader, item), self.dev),
            "seconds": round(time.perf_counter() - start, 1),
        }
        tensors = {name: value.detach().contiguous() for name, value in grader.tuned().items()}
        atomic_write(self._path(item, "safetensors"), save(tensors))
        atomic_write(path, json.dumps(result).encode())
        shutil.rmtree(self.work / item.name, ignore_errors=True)

    def _begin(self, grader: SessionLLM) -> None:
        """Put in what was trained before; the regression starts at the mean scores."""
        grader.speech.projector.load_state_dict(self.projector)
        state = self.prior.state_dict()
        grader.prior.load_state_dict(
            {k: v for k, v in state.items() if "projector" not in k}, False
        )
        ids = torch.tensor(self.names)
        head, wanted = grader.speech.head, torch.stack([s.whole.targets for s in self.train])
        assert head is not None
        with torch.no_grad():
            rows = self.language_model.embed(ids).float()
            grader.prior.projector.weight.copy_(rows.T)
            head.weight.zero_()
            head.bias.copy_(self._halves(wanted).mean(0))

    def _halves(self, scores: Tensor) -> Tensor:
        """Return scores in halves of the scale around its middle."""
        low, high = self.recipe.data.scale_min, self.recipe.data.scale_max
        return (scores - (low + high) / 2) / ((high - low) / 2)

    def _fit(self, grader: SessionLLM, item: SessionRunRecipe) -> list[dict[str, Any]]:
        """Train adapters and head; return loss and dev figures of each look."""
        fit = self.recipe.fit
        fixed = ("speech.projector.", "prior.")
        tuned = {k: v for k, v in grader.tuned().items() if not k.startswith(fixed)}
        for name, parameter in grader.tuned().items():
            parameter.requires_grad_(name in tuned)
        schedule = Schedule(
            title=item.name,
            folder=self.work / item.name,
            digest=self.recipe.digest,
            seed=self.recipe.seed,
            steps=fit.steps,
            warmup=fit.warmup,
            weight_decay=fit.weight_decay,
        )
        peaks = {
            name: (parameter, fit.head_lr if name.startswith("speech.head.") else fit.lr)
            for name, parameter in tuned.items()
        }

        def losses(step: int) -> dict[str, Tensor]:
            return {"loss": self._loss(grader, item, step), "steps": torch.ones(())}

        def look(progress: Progress) -> str | None:
            if progress.step % math.ceil(fit.steps / LOOKS) and progress.step != fit.steps:
                return None
            self._look(grader, item, progress)
            return f"dev PCC {progress.history[-1]['dev_pcc']}"

        grader.speech.set_dropout(0.0, fit.dropout)
        return fit_adapters(grader, peaks, schedule, losses, look)

    def _draw(self, step: int) -> tuple[list[int], list[Example]]:
        """Return the training sessions of a step, of like length, and whose they are."""
        how, size = self.recipe.sessions, self.recipe.fit.batch_size
        rng = np.random.default_rng((self.recipe.seed, step))
        progress = step / self.recipe.fit.steps
        whole = progress >= how.whole and step % 2 == 1
        share = rng.uniform(how.least, max(how.least, progress))
        missing = how.missing + (how.missing_last - how.missing) * progress
        count = size if whole else round(min(MOST_TIMES, 1 / max(share, 1e-3)) * size)
        count = min(count, len(self.train))
        some = rng.permutation(len(self.train))[: 2 * count].tolist()
        some.sort(key=lambda i: sum(h.frames for h in self.train[i].heard.values()))
        start = int(rng.integers(len(some) - count + 1))
        index = some[start : start + count]
        if whole:
            return index, [self.train[i].whole for i in index]
        return index, [shuffled(self.train[i], share, missing, rng) for i in index]

    def _loss(self, grader: SessionLLM, item: SessionRunRecipe, step: int) -> Tensor:
        index, examples = self._draw(step)
        folds = self.recipe.prior.folds
        with torch.no_grad():
            logits = torch.stack(
                [
                    self.priors[fold_of(i, folds)](example.mean[None])[0]
                    for i, example in zip(index, examples, strict=True)
                ]
            )
        said = self._halves(self._said(grader, item, examples, logits))
        wanted = self._halves(torch.stack([example.targets for example in examples]))
        known = wanted.isfinite()
        return multi_target_mse(said[known][:, None], wanted[known][:, None])

    def _said(
        self,
        grader: SessionLLM,
        item: SessionRunRecipe,
        examples: Sequence[Example],
        logits: Tensor,
    ) -> Tensor:
        """Return scores [N, A] of sessions whose priors' logits are given."""
        embedded = grader.prior.embed(logits)
        without = item.prior == "none"
        return grader.answer(
            [
                grader.sequence(example.responses, None if without else row)
                for example, row in zip(examples, embedded, strict=True)
            ]
        )

    @torch.inference_mode()
    def _scores(self, grader: SessionLLM, item: SessionRunRecipe) -> NDArray[np.float64]:
        """Return what the head says of the dev sessions, [n, A]."""
        grader.eval()
        rows = []
        for speaker in tqdm(self.dev, desc="dev", unit="", leave=False):
            logits = grader.prior(speaker.whole.mean[None])
            rows.append(self._said(grader, item, [speaker.whole], logits)[0])
        low, high = self.recipe.data.scale_min, self.recipe.data.scale_max
        found: NDArray[np.float64] = torch.stack(rows).clamp(low, high).double().numpy()
        return found

    def _look(self, grader: SessionLLM, item: SessionRunRecipe, progress: Progress) -> None:
        found = figures(grader.config, self._scores(grader, item), self.dev)[OVERALL]
        progress.history.append(
            {
                "step": progress.step,
                "loss": round(progress.losses["loss"] / progress.losses["steps"], 5),
                "dev_pcc": found["pcc"],
                "dev_rmse": found["rmse"],
            }
        )
        progress.losses.clear()

    def finish(self, output: Path) -> None:
        """Score the dev sessions with the shipped run in float32; write checkpoint and report."""
        item = self.recipe.shipped
        self.language_model.float()
        grader = self._grader(_placed(self.config, item))
        grader.load_state_dict(load_file(self._path(item, "safetensors")), strict=False)
        said = self._scores(grader, item)
        low, high = self.recipe.data.scale_min, self.recipe.data.scale_max
        pooled = grader.config.pooled(said, self._dev_priors(grader)).clip(low, high)
        report = {
            "recipe": self.recipe.name,
            "recipe_sha256": self.recipe.digest,
            "seed": self.recipe.seed,
            "shipped": item.name,
            "train": {"sessions": len(self.train)},
            "dev": {"sessions": len(self.dev), **figures(grader.config, pooled, self.dev)},
            "dev_language_model": figures(grader.config, said, self.dev),
            "warm_start": self.warm_dev,
            "prior": self._prior_figures(grader),
            "runs": {
                run.name: read_json(self._path(run, "json"), CheckpointError)
                for run in self.recipe.runs
            },
        }
        grader.config = with_errors(grader.config, pooled, self.dev)
        grader.save(
            output, overwrite=True, extra={REPORT_NAME: json.dumps(report, indent=1) + "\n"}
        )

    @torch.inference_mode()
    def _dev_priors(self, grader: SessionLLM) -> NDArray[np.float64]:
        """Return the priors of the dev sessions, [n, L]."""
        means = torch.stack([speaker.whole.mean for speaker in self.dev])
        found: NDArray[np.float64] = grader.prior(means).softmax(-1).double().numpy()
        return found

    def _prior_figures(self, grader: SessionLLM) -> dict[str, float | None]:
        """Return how well the prior's mean level alone tells the overall score, dev sessions."""
        said = self._dev_priors(grader) @ np.array(self.config.prior.levels)
        return agreement(said, np.array([float(s.whole.targets[-1]) for s in self.dev]))

    def _path(self, item: SessionRunRecipe, suffix: str) -> Path:
        return self.work / f"run-{item.name}.{suffix}"


def _config(
    recipe: SessionRecipe,
    parts: Sequence[str],
    encoder: Any,
    language_model: Any,
    tokenizer: Any,
) -> SessionConfig:
    prompt, data = recipe.prompt, recipe.data
    headings = {name: prompt.heading.replace("{part}", name) for name in parts}
    config = SessionConfig(
        speech=SpeechLLMConfig(
            aspects=tuple(
                AspectConfig(name, scale_min=data.scale_min, scale_max=data.scale_max)
                for name in (*parts, OVERALL)
            ),
            prompt=build_prompt(tokenizer, prompt.prefix, prompt.suffix),
            answer="regression",
            backbones=dataclasses.asdict(recipe.backbones),
            encoder=encoder.config,
            language_model=language_model.config,
            lora=LoraConfig(
                rank=recipe.adapter.rank,
                alpha=recipe.adapter.alpha,
                first_layer=recipe.adapter.first_layer,
            ),
            stack=recipe.projector.stack,
            projector_width=recipe.projector.width,
        ),
        parts=tuple(
            PartConfig(name, heading, encode_template(tokenizer, heading))
            for name, heading in headings.items()
        ),
        prior=PriorConfig(
            levels=recipe.prior.levels, width=recipe.prior.width, share=recipe.prior.share
        ),
        between=prompt.between,
        between_ids=encode_template(tokenizer, prompt.between),
        missing=prompt.missing,
        missing_ids=encode_template(tokenizer, prompt.missing),
        max_responses=recipe.sessions.max_responses,
        max_audio_s=recipe.sessions.max_audio_s,
    )
    try:
        return SessionConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    except CheckpointError as error:
        raise UsageError(f"the recipe {recipe.name}: {error.message}", mend="mend it") from None


def _placed(config: SessionConfig, item: SessionRunRecipe) -> SessionConfig:
    """Return the configuration of a run."""
    position = config.prior.position if item.prior == "none" else item.prior
    return dataclasses.replace(config, prior=dataclasses.replace(config.prior, position=position))
