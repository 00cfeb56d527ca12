"""Training of the multi-granular grader: sounds first, then verdicts, then preferences.

Encoder, slots and projector are frozen while the language model learns, and so are its layers
without adapters: what leaves them for the experts' verdicts is computed once and kept.
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
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from asa_engine.backbones import backbone_folder
from asa_engine.errors import CheckpointError, UsageError
from asa_engine.files import atomic_write, read_json
from asa_engine.graders.aspects import AspectConfig
from asa_engine.graders.multi_granular.config import ASPECTS, MultiGranularConfig
from asa_engine.graders.multi_granular.model import LEXICON_NAME, MultiGranular
from asa_engine.graders.multi_granular.recipe import MultiGranularRecipe
from asa_engine.graders.speech_llm.checkpoint import backbone_source
from asa_engine.graders.speech_llm.config import LoraConfig
from asa_engine.language_model.tokens import TextTokens
from asa_engine.manifest import dev_split, read_manifest
from asa_engine.nn.language_model import load_language_model, load_tokenizer
from asa_engine.nn.weights import load_whisper_encoder
from asa_engine.recipes import claim_work
from asa_engine.training.adapters import Schedule, fit_adapters
from asa_engine.training.readings import (
    Reading,
    frames_of_readings,
    label_means,
    lexicon_of,
    readings_of,
)
from asa_engine.training.sounds import learn_phones, slot_batch, sounds_of, warm_slots
from asa_engine.training.state import Progress
from asa_engine.training.verdicts import judge, preference_loss, sft_loss, sheet_of

__all__ = ["train"]

REPORT_NAME = "training.json"
BATCH = 32
MATCHED_SHARE = 0.002
"""Share of the training readings that may fall below the least fit."""


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Train the grader; write its checkpoint and a report.

    What is done is kept in `<output>.training`: frames, the small parts, the frozen layers'
    outputs, each finished run, and every two minutes the state of the run at hand.

    Args:
        recipe_path: TOML file.
        output: Checkpoint folder: config.json, weights.safetensors, lexicon.txt, training.json.
        resume: Go on with a run of the same recipe; False starts anew.

    Returns:
        The output folder.

    Raises:
        UsageError: The recipe is wrong, or the output cannot be written.
        ManifestError: The corpus cannot be used.
        CheckpointError: A backbone cannot be used, or the state is of another recipe.
    """
    recipe, output = MultiGranularRecipe.load(Path(recipe_path)), Path(output)
    work = claim_work(output, REPORT_NAME, recipe.digest, resume=resume)
    if work is None:
        return output
    torch.set_num_threads(recipe.threads)
    training = _Training(recipe, work)
    training.run("sft")
    if recipe.preference.steps:
        training.run("preference")
    training.finish(output)
    shutil.rmtree(work, ignore_errors=True)
    return output


class _Training:
    """What the runs share: readings, the small parts, slots, the frozen layers' outputs."""

    def __init__(self, recipe: MultiGranularRecipe, work: Path) -> None:
        self.recipe = recipe
        self.work = work
        if recipe.backbones.lexicon:
            backbone_folder(recipe.backbones.lexicon)
        sides = dev_split(read_manifest(recipe.manifest_path()))
        self.readings: dict[str, list[Reading]] = {
            name: readings_of(side[: recipe.limit or None])
            for name, side in zip(("train", "dev"), sides, strict=True)
        }
        folder = backbone_source(recipe.backbones.language_model)
        self.encoder = load_whisper_encoder(backbone_source(recipe.backbones.encoder), 1500)
        self.language_model = load_language_model(folder)
        tokenizer = load_tokenizer(folder)
        self.tokens = TextTokens(tokenizer.backend_tokenizer.to_str())
        self.config = self._config(tokenizer)
        torch.manual_seed(recipe.seed)
        self.grader = self._grader()
        self.sound_figures: dict[str, Any] = {}
        self.extra = self._sounds()
        self.seen = _spread(len(self.readings["train"]), recipe.sft.readings)
        self.sheets = {
            name: [
                sheet_of(self.config, self.tokens, reading, len(extra))
                for reading, extra in zip(readings, self.extra[name], strict=True)
            ]
            for name, readings in self.readings.items()
        }

    def _grader(self) -> MultiGranular:
        return MultiGranular(
            self.config, self.encoder, copy.deepcopy(self.language_model), self.tokens
        )

    def _config(self, tokenizer: Any) -> MultiGranularConfig:
        recipe, prompt = self.recipe, self.recipe.prompt

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=False).input_ids)

        end = ids(prompt.end)
        if len(end) != 1:
            raise UsageError(f"the recipe {recipe.name}: [prompt] end is {len(end)} tokens")
        config = MultiGranularConfig(
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
                for stage in ("encoder", "language_model", "lexicon")
                if (name := getattr(recipe.backbones, stage))
            },
            encoder=self.encoder.config,
            layer_weights=recipe.backbones.layer_weights,
            language_model=self.language_model.config,
            lora=LoraConfig(
                rank=recipe.adapter.rank,
                alpha=recipe.adapter.alpha,
                first_layer=recipe.adapter.first_layer,
            ),
            stack=recipe.warm.stack,
            projector_width=recipe.warm.projector_width,
            phone_width=recipe.phones.width,
            slot_width=recipe.warm.slot_width,
            max_rationale=prompt.rationale,
        )
        try:
            return MultiGranularConfig.from_dict(config.to_dict())
        except CheckpointError as error:
            raise UsageError(f"the recipe {recipe.name}: {error.message}", mend="mend it") from None

    def _sounds(self) -> dict[str, list[Tensor]]:
        """Train the small parts unless that was done; return slots and audio tokens, [n, W]."""
        done = self.work / "sounds.json"
        if not done.is_file():
            self._learn_sounds(done)
        found = read_json(done, CheckpointError)
        self.sound_figures = found["figures"]
        self.config = dataclasses.replace(self.config, least_fit=float(found["least_fit"]))
        self.grader.config = self.config
        self.grader.load_state_dict(self._read("sounds"), strict=False)
        sides = {}
        for name, readings in self.readings.items():
            stored = self._read(f"extra-{name}")
            sides[name] = [stored[str(i)].float() for i in range(len(readings))]
        return sides

    def _learn_sounds(self, done: Path) -> None:
        recipe, grader, seed = self.recipe, self.grader, self.recipe.seed
        frames: dict[str, list[NDArray[np.float16]]] = {}
        for name, readings in self.readings.items():
            path = self.work / f"frames-{name}.safetensors"
            if not path.is_file():
                found = frames_of_readings(self.encoder, self.config, readings, recipe.threads)
                atomic_write(path, save({str(i): torch.from_numpy(x) for i, x in enumerate(found)}))
            stored = self._read(path.stem)
            frames[name] = [stored[str(i)].numpy() for i in range(len(readings))]
        losses = learn_phones(
            grader.phones, frames["train"], self.readings["train"], recipe.phones, seed
        )
        grader.round_halves()
        sounds = {
            name: sounds_of(grader.phones, frames[name], readings, f"sounds, {name}")
            for name, readings in self.readings.items()
        }
        probes = warm_slots(
            grader.slots,
            grader.projector,
            frames["train"],
            sounds["train"],
            self.readings["train"],
            recipe.warm,
            seed,
        )
        grader.round_halves()
        grader.eval()
        figures: dict[str, Any] = {
            "phone_losses": losses,
            "probes": probes.figures(
                grader.slots, grader.projector, frames["dev"], sounds["dev"], self.readings["dev"]
            ),
        }
        least = float(np.quantile(sounds["train"].fits, MATCHED_SHARE))
        figures["fit"] = {
            "least": round(least, 4),
            "dev_refused": round(float((sounds["dev"].fits < least).mean()), 4),
            "dev_wrong_text_refused": round(float((sounds["dev"].mismatched < least).mean()), 4),
        }
        with torch.inference_mode():
            for name, readings in self.readings.items():
                extra = {}
                for index in range(len(readings)):
                    parts = grader.slots(*slot_batch(sounds[name], readings, [index]))
                    rows = torch.from_numpy(frames[name][index]).float()[None]
                    audio = grader.projector(rows, torch.tensor([rows.shape[1]]))[0]
                    extra[str(index)] = torch.cat((*parts, audio)).half()
                atomic_write(self.work / f"extra-{name}.safetensors", save(extra))
        state = {k: v.contiguous() for k, v in grader.tuned().items() if "lora" not in k}
        atomic_write(self.work / "sounds.safetensors", save(state))
        atomic_write(done, json.dumps({"least_fit": least, "figures": figures}).encode())

    def _read(self, name: str) -> dict[str, Tensor]:
        path = self.work / f"{name}.safetensors"
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} is damaged: {error}", mend="start anew with --fresh"
            ) from None

    def _frozen(self) -> dict[int, Tensor]:
        """Return what leaves the layers without adapters for the experts' verdicts, bfloat16."""
        path = self.work / "hidden-train.safetensors"
        if not path.is_file():
            grader = self._grader()
            first = self.config.lora.first_layer
            with torch.inference_mode():
                _, prefix = grader.prefix(0, first)
                found: dict[str, Tensor] = {}
                sheets = self.sheets["train"]
                order = np.array(sorted(self.seen, key=lambda i: len(sheets[i].ids)))
                for some in tqdm(
                    np.array_split(order, math.ceil(len(order) / BATCH)),
                    desc="frozen layers",
                    unit="",
                    leave=False,
                ):
                    rows = [
                        grader.embed(sheets[i].ids, self.extra["train"][i]).to(
                            grader.language_model.dtype
                        )
                        for i in some
                    ]
                    hidden = grader.run(rows, 0, first, prefix)
                    found |= {str(i): row.bfloat16() for i, row in zip(some, hidden, strict=True)}
            atomic_write(path, save({k: v.contiguous() for k, v in found.items()}))
        stored = self._read(path.stem)
        return {int(name): value for name, value in stored.items()}

    def run(self, name: str) -> None:
        """Train the adapters, unless it was done before, and judge the dev readings."""
        path = self.work / f"run-{name}.json"
        if path.is_file():
            return
        start = time.perf_counter()
        torch.manual_seed(self.recipe.seed)
        if self.recipe.sft.bf16:
            self.language_model.to(torch.bfloat16)
        grader = self._grader()
        if name == "preference":
            grader.load_state_dict(self._read("run-sft"), strict=False)
        history = self._fit(grader, name)
        grader.round_halves()
        grader.eval()
        some = _spread(len(self.readings["dev"]), self.recipe.sft.judged)
        result = {
            "history": history,
            "dev": judge(
                grader,
                [self.readings["dev"][i] for i in some],
                [self.sheets["dev"][i] for i in some],
                [self.extra["dev"][i] for i in some],
            ),
            "seconds": round(time.perf_counter() - start, 1),
        }
        tensors = {k: v.detach().contiguous() for k, v in grader.adapters().items()}
        atomic_write(self.work / f"run-{name}.safetensors", save(tensors))
        atomic_write(path, json.dumps(result).encode())
        shutil.rmtree(self.work / name, ignore_errors=True)

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
        schedule = Schedule(
            title=name,
            folder=self.work / name,
            digest=recipe.digest,
            seed=recipe.seed,
            steps=len(order),
            warmup=sft.warmup,
            weight_decay=sft.weight_decay,
        )

        def losses(step: int) -> dict[str, Tensor]:
            some = order[step]
            sheets = [self.sheets["train"][i] for i in some]
            found = sft_loss(
                grader,
                sheets,
                [frozen[i].to(grader.language_model.dtype) for i in some],
                sft.rationale_weight,
            )
            if name == "preference":
                found["preference"] = preference_loss(
                    grader,
                    [self.readings["train"][i] for i in some],
                    sheets,
                    [self.extra["train"][i] for i in some],
                    preference,
                    (recipe.seed, step),
                )
                found["loss"] = found["loss"] + preference.weight * found["preference"]
            return found

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
        lengths = np.array([len(sheet.ids) for sheet in self.sheets["train"]])
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
        grader.load_state_dict(self._read("sounds"), strict=False)
        grader.load_state_dict(self._read(f"run-{self.recipe.ship}"), strict=False)
        grader.round_halves()
        runs = {
            path.stem.removeprefix("run-"): read_json(path, CheckpointError)
            for path in sorted(self.work.glob("run-*.json"))
        }
        report = {
            "recipe": self.recipe.name,
            "recipe_sha256": self.recipe.digest,
            "seed": self.recipe.seed,
            "shipped": self.recipe.ship,
            "train": {"n": len(self.readings["train"])},
            "dev": {"n": len(self.readings["dev"]), **runs[self.recipe.ship]["dev"]},
            "sounds": self.sound_figures,
            "runs": runs,
        }
        extra = {
            REPORT_NAME: json.dumps(report, indent=1) + "\n",
            LEXICON_NAME: lexicon_of(self.readings["train"]),
        }
        grader.save(output, overwrite=True, extra=extra)


def _spread(count: int, wanted: int) -> list[int]:
    """Return so many indices below `count`, evenly spread; 0 wants all."""
    wanted = min(wanted or count, count)
    return [index * count // wanted for index in range(wanted)]
