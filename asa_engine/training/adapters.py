"""The steps in which adapters are trained: resumable to the bit, the same for every speech LLM."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from asa_engine.training.comparison import WorkFolder
from asa_engine.training.recipe import RecipeOfRuns
from asa_engine.training.sections import ScheduleRecipe
from asa_engine.training.state import (
    Progress,
    load_modules,
    load_moments,
    load_progress,
    save_state,
)

__all__ = ["Schedule", "fit_adapters", "risen_cosine"]

GRADIENT_NORM = 1.0
SAVE_EVERY_S = 120.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast a run's adapters are trained.

    Attributes:
        run: The run's name.
        work: Where its state is kept.
        recipe: Whose seed every step's dropout is drawn from.
        fit: Warm-up and weight decay.
        steps: In all.
    """

    run: str
    work: WorkFolder
    recipe: RecipeOfRuns
    fit: ScheduleRecipe
    steps: int

    @property
    def folder(self) -> Path:
        """Where the state of the run is kept."""
        return self.work.state(self.run)


def risen_cosine(step: int, steps: int, warmup: float) -> float:
    """Return a step's share of the peak: a linear rise, then half a cosine down to zero."""
    rise = min(1.0, (step + 1) / max(1.0, warmup * steps))
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def fit_adapters(
    grader: nn.Module,
    tuned: Mapping[str, tuple[nn.Parameter, float]],
    schedule: Schedule,
    losses: Callable[[int], Mapping[str, Tensor]],
    look: Callable[[Progress], str | None],
) -> list[dict[str, Any]]:
    """Train in place; go on from the state that is there.

    Args:
        grader: In training mode at every step.
        tuned: What is trained, by name, each with its peak learning rate.
        schedule: How long and how fast.
        losses: Step -> what is summed over the steps by name; `loss` is what is minimised.
        look: Called after every step; where it is time to, it adds to the history, clears the sums
            and returns what the progress bar shows.

    Returns:
        The history.

    Raises:
        CheckpointError: The state is of another recipe, or damaged.
        UsageError: The state cannot be written.
    """
    parameters = [parameter for parameter, _ in tuned.values()]
    state = nn.ParameterDict({k.replace(".", "/"): value for k, (value, _) in tuned.items()})
    names: dict[Tensor, str] = {value: name for name, (value, _) in tuned.items()}
    optimizer = torch.optim.AdamW(
        {
            "params": [parameter],
            "peak": peak,
            "weight_decay": schedule.fit.weight_decay if parameter.ndim > 1 else 0.0,
        }
        for parameter, peak in tuned.values()
    )
    digest, seed = schedule.recipe.digest, schedule.recipe.seed
    progress = Progress(digest)
    if (kept := load_progress(schedule.folder, digest)) is not None:
        progress, path = kept
        load_moments(load_modules(path, {"tuned": state}), optimizer, names)
    saved = time.monotonic()
    with tqdm(
        total=schedule.steps, initial=progress.step, desc=schedule.run, unit="", leave=False
    ) as bar:
        while progress.step < schedule.steps:
            rate = risen_cosine(progress.step, schedule.steps, schedule.fit.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["peak"]
            torch.manual_seed(seed * 1_000_003 + progress.step)
            grader.train()
            terms = losses(progress.step)
            optimizer.zero_grad()
            terms["loss"].backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
            optimizer.step()
            for name, term in terms.items():
                progress.losses[name] = progress.losses.get(name, 0.0) + term.item()
            progress.step += 1
            bar.update()
            if (shown := look(progress)) is not None:
                bar.set_postfix_str(shown)
            if time.monotonic() - saved > SAVE_EVERY_S:
                save_state(schedule.folder, progress, {"tuned": state}, optimizer, names)
                saved = time.monotonic()
    return progress.history
