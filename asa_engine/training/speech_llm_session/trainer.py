"""Training of the session grader: projector, acoustic prior, then adapters and regression.

Encoder and language model are frozen, and so are the projector after its warm start and the prior
after its own training. What was heard of every recording is computed once and kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from asa_engine.errors import UsageError
from asa_engine.evaluation.splits import read_session_sides
from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.lm.checkpoint import backbone_source
from asa_engine.graders.lm.prompt import build_prompt, encode_template
from asa_engine.graders.speech_llm.config import LoraConfig, SpeechLLMConfig
from asa_engine.graders.speech_llm.model import Projector
from asa_engine.graders.speech_llm_session.config import (
    OVERALL,
    PartConfig,
    PriorConfig,
    SessionConfig,
)
from asa_engine.graders.speech_llm_session.model import SessionLLM
from asa_engine.nn.audio_language_model import AudioEncoder, load_backbones
from asa_engine.nn.config import WHISPER_POSITIONS
from asa_engine.nn.language_model import load_tokenizer, sharing
from asa_engine.nn.lora import lora_counts
from asa_engine.nn.weights import load_whisper_encoder
from asa_engine.nn.whisper import WhisperEncoder
from asa_engine.objectives import multi_target_mse
from asa_engine.training.adapters import Schedule, fit_adapters
from asa_engine.training.comparison import Comparison, WorkFolder
from asa_engine.training.data import load_corpus
from asa_engine.training.projector import warm_start
from asa_engine.training.recipe import shipped
from asa_engine.training.speech_llm_session.data import Example, load_speakers, shuffled
from asa_engine.training.speech_llm_session.figures import agreement, figures, with_errors
from asa_engine.training.speech_llm_session.prior import fit_prior, fold_of
from asa_engine.training.speech_llm_session.recipe import SessionRecipe, SessionRunRecipe
from asa_engine.training.state import Progress

__all__ = ["train"]

CHUNK_S = 28.0
"""What a speech LLM's configuration states for a Whisper's windows; a session has no chunks."""
LOOKS = 2
"""How often, evenly spread, a run's dev sessions are scored."""
MOST_TIMES = 4
"""So many more sessions cut short than whole ones a step may hold."""


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Train every run of a session recipe, write one of them and a report.

    Args:
        recipe_path: TOML file.
        output: Checkpoint folder: config.json, weights.safetensors, training.json.
        resume: As `Comparison.follow` takes it, which tells the rest.
    """
    return SessionComparison.follow(SessionRecipe.load(recipe_path), Path(output), resume=resume)


class SessionComparison(Comparison[SessionRecipe, SessionRunRecipe]):
    """What all runs share: the sessions as they were heard, and the priors."""

    def __init__(self, recipe: SessionRecipe, work: WorkFolder) -> None:
        super().__init__(recipe, work)
        data = recipe.data
        sessions = read_session_sides(
            recipe.find(data.sessions),
            recipe.find(data.dev_sessions) if data.dev_sessions else None,
        )
        parts = [part.name for part in sessions[0][0].parts]
        model_folder = backbone_source(recipe.backbones.language_model)
        self.encoder, self.language_model = load_backbones(
            backbone_source(recipe.backbones.encoder),
            model_folder,
            WHISPER_POSITIONS,
            None if recipe.fit.bf16 else torch.float32,
        )
        self.prior_encoder = _prior_encoder(recipe, self.encoder)
        tokenizer = load_tokenizer(model_folder)
        self.names = build_prompt(tokenizer, "", "", recipe.prior.names).label_ids
        self.config = _config(recipe, parts, self.encoder, self.language_model, tokenizer)
        if self.prior_encoder is not None:
            prior = dataclasses.replace(
                self.config.prior,
                encoder=self.prior_encoder.config,
                backbone=recipe.backbones.prior_encoder,
            )
            self.config = dataclasses.replace(self.config, prior=prior)
        recipe.checked(self.config)
        torch.manual_seed(recipe.seed)
        start = self._grader(self.config)
        train, dev, _ = load_corpus(recipe.sides(), data.scores, data.targets)
        self.warm_dev: dict[str, float] = {}
        self.projector: dict[str, Tensor] = {}
        if isinstance(start.speech.projector, Projector):  # others come with their model
            self.warm_dev = warm_start(start.speech, recipe, train, dev, work)
            self.projector = start.speech.projector.state_dict()
        pairs = zip(train.utterances, train.targets[:, 0].tolist(), strict=True)
        scores = {utterance.audio: score for utterance, score in pairs}
        self.learnt, self.dev = load_speakers(sessions, scores, start, work.responses)
        self.priors = [
            fit_prior(self.config, recipe.prior, self.learnt, recipe.seed, fold)
            for fold in range(recipe.prior.folds)
        ]
        self.prior = fit_prior(self.config, recipe.prior, self.learnt, recipe.seed)
        if recipe.fit.bf16:
            self.language_model.to(torch.bfloat16)

    def _grader(self, config: SessionConfig) -> SessionLLM:
        return SessionLLM(config, self.encoder, sharing(self.language_model), self.prior_encoder)

    def runs(self) -> Iterable[SessionRunRecipe]:
        """Return the runs."""
        return self.recipe.runs

    def train(self, run: SessionRunRecipe) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Train one grader."""
        torch.manual_seed(self.recipe.seed)
        grader = self._grader(_placed(self.config, run))
        self._begin(grader)
        history = self._fit(grader, run)
        grader.round_halves()
        result = {
            "history": history,
            "dev": figures(grader.config, self._scores(grader, run), self.dev),
        }
        return result, grader.tuned()

    def _begin(self, grader: SessionLLM) -> None:
        """Put in what was trained before; the regression starts at the mean scores."""
        if self.projector:
            grader.speech.projector.load_state_dict(self.projector)
        state = self.prior.state_dict()
        grader.prior.load_state_dict(
            {k: v for k, v in state.items() if "projector" not in k}, False
        )
        ids = torch.tensor(self.names)
        head, wanted = grader.speech.head, torch.stack([s.whole.targets for s in self.learnt])
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
        schedule = Schedule(item.name, self.work, self.recipe, fit, fit.steps)
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
        count = min(count, len(self.learnt))
        some = rng.permutation(len(self.learnt))[: 2 * count].tolist()
        some.sort(key=lambda i: sum(h.frames for h in self.learnt[i].heard.values()))
        start = int(rng.integers(len(some) - count + 1))
        index = some[start : start + count]
        if whole:
            return index, [self.learnt[i].whole for i in index]
        return index, [
            shuffled(self.learnt[i], share, missing, rng, mixed=how.shuffle) for i in index
        ]

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
        scores: NDArray[np.float64] = torch.stack(rows).clamp(low, high).double().numpy()
        return scores

    def _look(self, grader: SessionLLM, item: SessionRunRecipe, progress: Progress) -> None:
        overall = figures(grader.config, self._scores(grader, item), self.dev)[OVERALL]
        progress.history.append(
            {
                "step": progress.step,
                "loss": round(progress.losses["loss"] / progress.losses["steps"], 5),
                "dev_pcc": overall["pcc"],
                "dev_rmse": overall["rmse"],
            }
        )
        progress.losses.clear()

    def finish(self, output: Path) -> None:
        """Score the dev sessions with the shipped run in float32; write checkpoint and report."""
        item = shipped(self.recipe.runs, self.recipe.ship)
        self.language_model.float()
        grader = self._grader(_placed(self.config, item))
        grader.load_state_dict(self.weights(item), strict=False)
        said = self._scores(grader, item)
        low, high = self.recipe.data.scale_min, self.recipe.data.scale_max
        pooled = grader.config.pooled(said, self._dev_priors(grader)).clip(low, high)
        report = {
            "seed": self.recipe.seed,
            "shipped": item.name,
            "adapters": lora_counts(grader),
            "train": {"sessions": len(self.learnt)},
            "dev": {"sessions": len(self.dev), **figures(grader.config, pooled, self.dev)},
            "dev_language_model": figures(grader.config, said, self.dev),
            "warm_start": self.warm_dev,
            "prior": self._prior_figures(grader),
            "runs": {run.name: self.result(run) for run in self.runs()},
        }
        grader.config = with_errors(grader.config, pooled, self.dev)
        grader.save(output, overwrite=True, extra=self.report(**report))

    @torch.inference_mode()
    def _dev_priors(self, grader: SessionLLM) -> NDArray[np.float64]:
        """Return the priors of the dev sessions, [n, L]."""
        means = torch.stack([speaker.whole.mean for speaker in self.dev])
        priors: NDArray[np.float64] = grader.prior(means).softmax(-1).double().numpy()
        return priors

    def _prior_figures(self, grader: SessionLLM) -> dict[str, float | None]:
        """Return how well the prior's mean level alone tells the overall score, dev sessions."""
        said = self._dev_priors(grader) @ np.array(self.config.prior.levels)
        return agreement(said, np.array([float(s.whole.targets[-1]) for s in self.dev]))


def _config(
    recipe: SessionRecipe,
    parts: Sequence[str],
    encoder: Any,
    language_model: Any,
    tokenizer: Any,
) -> SessionConfig:
    prompt, data, window_s = recipe.prompt, recipe.data, recipe.sessions.window_s
    own_ears = isinstance(encoder, AudioEncoder)
    headings = {name: prompt.heading.replace("{part}", name) for name in parts}
    return SessionConfig(
        speech=SpeechLLMConfig(
            aspects=tuple(
                AspectConfig(name, scale_min=data.scale_min, scale_max=data.scale_max)
                for name in (*parts, OVERALL)
            ),
            prompt=build_prompt(tokenizer, prompt.prefix, prompt.suffix),
            answer="regression",
            backbones={
                "encoder": recipe.backbones.encoder,
                "language_model": recipe.backbones.language_model,
            },
            encoder=encoder.config,
            language_model=language_model.config,
            lora=LoraConfig.of(language_model.config.family, **dataclasses.asdict(recipe.adapter)),
            window_s=window_s,
            chunk_s=window_s if own_ears else CHUNK_S,
            stack=encoder.config.stack if own_ears else recipe.projector.stack,
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


def _prior_encoder(
    recipe: SessionRecipe, encoder: WhisperEncoder | AudioEncoder
) -> WhisperEncoder | None:
    """Return what the prior hears with beside an audio language model's own encoder."""
    name, own_ears = recipe.backbones.prior_encoder, isinstance(encoder, AudioEncoder)
    if own_ears != bool(name):
        raise UsageError(
            f"the recipe {recipe.name} names {'no' if own_ears else 'a'} prior_encoder",
            hint="the acoustic prior hears with a Whisper: name one in [backbones] beside an audio "
            "language model, and only there",
        )
    return load_whisper_encoder(backbone_source(name), WHISPER_POSITIONS) if name else None


def _placed(config: SessionConfig, item: SessionRunRecipe) -> SessionConfig:
    """Return the configuration of a run."""
    position = config.prior.position if item.prior == "none" else item.prior
    return dataclasses.replace(config, prior=dataclasses.replace(config.prior, position=position))
