"""Training of the multi-granular grader: sounds first, then verdicts, then preferences.

Encoder, slots and projector are frozen while the language model learns, and so are its layers
without adapters: what leaves them for the experts' verdicts is computed once and kept.
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
from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.lm.checkpoint import backbone_source
from asa_engine.graders.multi_granular.config import ASPECTS, MultiGranularConfig
from asa_engine.graders.multi_granular.model import LEXICON_NAME, MultiGranular
from asa_engine.graders.speech_llm.config import LoraConfig
from asa_engine.language_model.tokens import TextTokens
from asa_engine.nn.config import WHISPER_POSITIONS
from asa_engine.nn.language_model import load_language_model, load_tokenizer, sharing
from asa_engine.nn.lora import lora_counts
from asa_engine.nn.weights import load_whisper_encoder
from asa_engine.training.adapters import Schedule, fit_adapters
from asa_engine.training.comparison import Comparison, WorkFolder
from asa_engine.training.multi_granular.readings import (
    Reading,
    frames_of_readings,
    label_means,
    lexicon_of,
    readings_of,
)
from asa_engine.training.multi_granular.recipe import MultiGranularRecipe
from asa_engine.training.multi_granular.sounds import (
    Heard,
    learn_phones,
    slot_batch,
    sounds_of,
    warm_slots,
)
from asa_engine.training.multi_granular.verdicts import judge, preference_loss, sft_loss, tokens_of
from asa_engine.training.state import Progress

__all__ = ["train"]

BATCH = 32
MATCHED_SHARE = 0.002
"""Share of the training readings that may fall below the least fit."""


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Train the grader; write its checkpoint and a report.

    Frames, the small parts, the frozen layers' outputs, each finished run, and every two minutes
    the state of the run at hand are kept.

    Args:
        recipe_path: TOML file.
        output: Checkpoint folder: config.json, weights.safetensors, lexicon.txt, training.json.
        resume: As `Comparison.follow` takes it, which tells the rest.
    """
    recipe = MultiGranularRecipe.load(recipe_path)
    return MultiGranularTraining.follow(recipe, Path(output), resume=resume)


class MultiGranularTraining(Comparison[MultiGranularRecipe, str]):
    """What the runs share: readings, the small parts, slots, the frozen layers' outputs."""

    def __init__(self, recipe: MultiGranularRecipe, work: WorkFolder) -> None:
        super().__init__(recipe, work)
        sides = recipe.sides()
        self.readings: dict[str, list[Reading]] = {
            name: readings_of(side[: recipe.data.limit or None])
            for name, side in (("train", sides.train), ("dev", sides.dev))
        }
        folder = backbone_source(recipe.backbones.language_model)
        self.encoder = load_whisper_encoder(
            backbone_source(recipe.backbones.encoder), WHISPER_POSITIONS
        )
        self.language_model = load_language_model(
            folder, None if recipe.sft.bf16 else torch.float32
        )
        tokenizer = load_tokenizer(folder)
        self.tokens = TextTokens(tokenizer.backend_tokenizer.to_str())
        self.config = self._config(tokenizer)
        torch.manual_seed(recipe.seed)
        self.grader = self._grader()
        self.sound_figures: dict[str, Any] = {}
        self.extra = self._sounds()
        self.seen = _spread(len(self.readings["train"]), recipe.sft.readings)
        self.verdicts = {
            name: [
                tokens_of(self.config, self.tokens, reading, len(extra))
                for reading, extra in zip(readings, self.extra[name], strict=True)
            ]
            for name, readings in self.readings.items()
        }

    def _grader(self) -> MultiGranular:
        return MultiGranular(self.config, self.encoder, sharing(self.language_model), self.tokens)

    def _config(self, tokenizer: Any) -> MultiGranularConfig:
        recipe, prompt = self.recipe, self.recipe.prompt

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=False).input_ids)

        end = ids(prompt.end)
        if len(end) != 1:
            raise UsageError(f"the recipe {recipe.name}: [prompt] end is {len(end)} tokens")
        return recipe.checked(
            MultiGranularConfig(
                aspects=tuple(AspectConfig(name) for name in ASPECTS),
                label_scores=label_means(self.readings["train"]),
                least_fit=0.0,
                prefix=prompt.prefix,
                middle=prompt.middle,
                suffix=prompt.suffix,
                prefix_ids=ids(prompt.prefix),
                middle_ids=ids(prompt.middle),
                suffix_ids=ids(prompt.suffix),
                end_ids=end,
                control_ids=tuple(sorted(tokenizer.all_special_ids)),
                backbones={
                    stage: name
                    for stage in ("encoder", "language_model")
                    if (name := getattr(recipe.backbones, stage))
                },
                encoder=self.encoder.config,
                layer_weights=recipe.backbones.layer_weights,
                language_model=self.language_model.config,
                lora=LoraConfig.of(
                    self.language_model.config.family, **dataclasses.asdict(recipe.adapter)
                ),
                stack=recipe.warm.stack,
                projector_width=recipe.warm.projector_width,
                phone_width=recipe.phones.width,
                slot_width=recipe.warm.slot_width,
                max_rationale=prompt.rationale,
            )
        )

    def _sounds(self) -> dict[str, list[Tensor]]:
        """Train the small parts unless that was done; return slots and audio tokens, [n, W]."""
        if (sounds := self.work.result("sounds")) is None:
            sounds = self._learn_sounds()
            self.work.conclude("sounds", sounds)
        self.sound_figures = sounds["figures"]
        self.config = dataclasses.replace(self.config, least_fit=float(sounds["least_fit"]))
        self.grader.config = self.config
        self.grader.load_state_dict(self.work.read("sounds"), strict=False)
        sides = {}
        for name in self.readings:
            sides[name] = [row.float() for row in self.work.read_list(f"extra-{name}")]
        return sides

    def _learn_sounds(self) -> dict[str, Any]:
        recipe, grader, seed = self.recipe, self.grader, self.recipe.seed
        frames: dict[str, list[NDArray[np.float16]]] = {}
        for name, readings in self.readings.items():
            kept = f"frames-{name}"
            if not self.work.has(kept):
                encoded = frames_of_readings(self.encoder, self.config, readings, recipe.threads)
                self.work.keep_list(kept, map(torch.from_numpy, encoded))
            frames[name] = [row.numpy() for row in self.work.read_list(kept)]
        losses = learn_phones(
            grader.phones, frames["train"], self.readings["train"], recipe.phones, seed
        )
        grader.round_halves()
        heard: dict[str, Heard] = {}
        for name, readings in self.readings.items():
            sounds = sounds_of(grader.phones, frames[name], readings, f"sounds, {name}")
            heard[name] = Heard(frames[name], sounds, readings)
        learnt, dev = heard["train"].sounds, heard["dev"].sounds
        probes = warm_slots(grader.slots, grader.projector, heard["train"], recipe.warm, seed)
        grader.round_halves()
        grader.eval()
        figures: dict[str, Any] = {
            "phone_losses": losses,
            "probes": probes.figures(grader.slots, grader.projector, heard["dev"]),
        }
        least = float(np.quantile(learnt.fits, MATCHED_SHARE))
        figures["fit"] = {
            "least": round(least, 4),
            "dev_refused": round(float((dev.fits < least).mean()), 4),
            "dev_wrong_text_refused": round(float((dev.mismatched < least).mean()), 4),
        }
        with torch.inference_mode():
            for name, readings in self.readings.items():
                extra = []
                for index in range(len(readings)):
                    parts = grader.slots(*slot_batch(heard[name], [index]))
                    rows = torch.from_numpy(frames[name][index]).float()[None]
                    audio = grader.projector(rows, torch.tensor([rows.shape[1]]))[0]
                    extra.append(torch.cat((*parts, audio)).half())
                self.work.keep_list(f"extra-{name}", extra)
        self.work.keep("sounds", {k: v for k, v in grader.tuned().items() if "lora" not in k})
        return {"least_fit": least, "figures": figures}

    def _frozen(self) -> dict[int, Tensor]:
        """Return what leaves the layers without adapters for the experts' verdicts, bfloat16."""
        if not self.work.has("hidden-train"):
            grader = self._grader()
            first = self.config.lora.first_layer
            with torch.inference_mode():
                _, prefix = grader.prefix(0, first)
                found: dict[str, Tensor] = {}
                verdicts = self.verdicts["train"]
                order = np.array(sorted(self.seen, key=lambda i: len(verdicts[i].ids)))
                for some in tqdm(
                    np.array_split(order, math.ceil(len(order) / BATCH)),
                    desc="frozen layers",
                    unit="",
                    leave=False,
                ):
                    rows = [
                        grader.embed(verdicts[i].ids, self.extra["train"][i]).to(
                            grader.language_model.dtype
                        )
                        for i in some
                    ]
                    hidden = grader.run(rows, 0, first, prefix)
                    found |= {str(i): row.bfloat16() for i, row in zip(some, hidden, strict=True)}
            self.work.keep("hidden-train", found)
        return {int(name): value for name, value in self.work.read("hidden-train").items()}

    def runs(self) -> Iterable[str]:
        """Return fine-tuning, and preferences behind it."""
        return ("sft", "preference") if self.recipe.preference.steps else ("sft",)

    def train(self, run: str) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Train the adapters, and judge the dev readings."""
        torch.manual_seed(self.recipe.seed)
        if self.recipe.sft.bf16:
            self.language_model.to(torch.bfloat16)
        grader = self._grader()
        if run == "preference":
            grader.load_state_dict(self.weights("sft"), strict=False)
        history = self._fit(grader, run)
        grader.round_halves()
        grader.eval()
        some = _spread(len(self.readings["dev"]), self.recipe.sft.judged)
        result = {
            "history": history,
            "dev": judge(
                grader,
                [self.readings["dev"][i] for i in some],
                [self.verdicts["dev"][i] for i in some],
                [self.extra["dev"][i] for i in some],
            ),
        }
        return result, grader.adapters()

    def _fit(self, grader: MultiGranular, name: str) -> list[dict[str, float]]:
        """Train; return the mean losses of every tenth of the steps."""
        recipe = self.recipe
        sft, preference = recipe.sft, recipe.preference
        lr, size = (
            (sft.lr, sft.batch_size) if name == "sft" else (preference.lr, preference.batch_size)
        )
        frozen = self._frozen()
        order: list[list[int]] = []
        while len(order) < (preference.steps if name == "preference" else 1):
            for epoch in range(sft.epochs):
                order += self._batches(size, (recipe.seed, len(name), len(order), epoch))
        if name == "preference":
            order = order[: preference.steps]
        mark = max(1, len(order) // 10)
        schedule = Schedule(name, self.work, recipe, sft, len(order))

        def losses(step: int) -> dict[str, Tensor]:
            some = order[step]
            verdicts = [self.verdicts["train"][i] for i in some]
            terms = sft_loss(
                grader,
                verdicts,
                [frozen[i].to(grader.language_model.dtype) for i in some],
                sft.rationale_weight,
            )
            if name == "preference":
                terms["preference"] = preference_loss(
                    grader,
                    [self.readings["train"][i] for i in some],
                    verdicts,
                    [self.extra["train"][i] for i in some],
                    preference,
                    (recipe.seed, step),
                )
                terms["loss"] = terms["loss"] + preference.weight * terms["preference"]
            return terms

        def look(progress: Progress) -> str | None:
            if progress.step % mark:
                return None
            means = {k: round(v / mark, 4) for k, v in progress.losses.items()}
            progress.history.append({"step": progress.step, **means})
            progress.losses.clear()
            return str(means)

        grader.set_dropout(0.0, sft.dropout)
        peaks = {key: (value, lr) for key, value in grader.adapters().items()}
        return fit_adapters(grader, peaks, schedule, losses, look)

    def _batches(self, size: int, seed: Sequence[int]) -> list[list[int]]:
        """Return one epoch's batches: random, but of sequences of like length."""
        chance = np.random.default_rng(seed)
        lengths = np.array([len(tokenised.ids) for tokenised in self.verdicts["train"]])
        order = chance.permutation(self.seen)
        batches: list[list[int]] = []
        for start in range(0, len(order), size * 8):
            some = order[start : start + size * 8]
            some = some[np.argsort(lengths[some], kind="stable")]
            batches += [some[i : i + size].tolist() for i in range(0, len(some), size)]
        return [batches[i] for i in chance.permutation(len(batches))]

    def finish(self, output: Path) -> None:
        """Write the shipped run's checkpoint and the report."""
        self.language_model.float()
        grader = self._grader()
        grader.load_state_dict(self.work.read("sounds"), strict=False)
        grader.load_state_dict(self.weights(self.recipe.ship), strict=False)
        grader.round_halves()
        runs = {run: self.result(run) for run in sorted(self.runs())}
        report = {
            "seed": self.recipe.seed,
            "shipped": self.recipe.ship,
            "adapters": lora_counts(grader),
            "train": {"n": len(self.readings["train"])},
            "dev": {"n": len(self.readings["dev"]), **runs[self.recipe.ship]["dev"]},
            "sounds": self.sound_figures,
            "runs": runs,
        }
        extra = {**self.report(**report), LEXICON_NAME: lexicon_of(self.readings["train"])}
        grader.save(output, overwrite=True, extra=extra)


def _spread(count: int, wanted: int) -> list[int]:
    """Return so many indices below `count`, evenly spread; 0 wants all."""
    wanted = min(wanted or count, count)
    return [index * count // wanted for index in range(wanted)]
