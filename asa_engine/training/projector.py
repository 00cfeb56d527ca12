"""The projector's warm start: the mean of its tokens learns scores, without a language model."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from asa_engine.evaluation.metrics import pcc
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.nn.whisper import WhisperEncoder, frames_of
from asa_engine.objectives import multi_target_mse
from asa_engine.training.acoustic.frozen import FrozenFeatures
from asa_engine.training.comparison import WorkFolder
from asa_engine.training.data import Corpus, epoch_order
from asa_engine.training.sections import SpeechRecipe

__all__ = ["warm_start"]

BATCH = 32


def warm_start(
    grader: SpeechLLM,
    recipe: SpeechRecipe,
    train: Corpus,
    dev: Corpus,
    work: WorkFolder,
) -> dict[str, float]:
    """Train the projector in place; keep it and what all recordings give in `work`.

    Args:
        grader: Whose projector it is.
        recipe: Its [projector] says how long.
        train: Training speakers.
        dev: Held-out speakers.
        work: Where `projector`, `tokens-{train,dev}` (audio tokens) and `sums-{train,dev}` (count
            of frames, sums of every layer's h, then of h^2) go; a projector that is there already
            is taken.

    Returns:
        PCC of the linear layer on the mean token on the dev side: {"dev_pcc": ...}.
    """
    if (kept := work.result("projector")) is not None:
        grader.projector.load_state_dict(work.read("projector"))
        return {"dev_pcc": float(kept["dev_pcc"])}
    windows = AcousticConfig(
        aspects=grader.config.aspects,
        encoder=grader.config.encoder,
        window_s=grader.config.window_s,
        min_window_s=grader.config.min_window_s,
    )
    assert isinstance(grader.encoder, WhisperEncoder)  # others bring a projector of their own
    features = {
        name: FrozenFeatures(grader.encoder, windows, corpus, f"encoder, {name}")
        for name, corpus in (("train", train), ("dev", dev))
    }
    probe = _fit(grader, recipe, train, features["train"])
    grader.round_halves()
    grader.eval()
    said = np.zeros(len(dev))
    for name, corpus in (("train", train), ("dev", dev)):
        tokens = _all_tokens(grader, features[name], len(corpus))
        if name == "dev":
            with torch.inference_mode():
                means = torch.stack([item.float().mean(0) for item in tokens])
                said = probe(means)[:, 0].double().numpy()
        work.keep_list(f"tokens-{name}", (item.half() for item in tokens))
        sums = np.concatenate((features[name].counts, features[name].sums), axis=1)
        work.keep(f"sums-{name}", {"sums": torch.from_numpy(sums)})
    result = {"dev_pcc": round(pcc(said, dev.scores[:, 0]), 4)}
    work.keep("projector", grader.projector.state_dict())
    work.conclude("projector", result)
    return result


def _fit(
    grader: SpeechLLM,
    recipe: SpeechRecipe,
    train: Corpus,
    features: FrozenFeatures,
) -> nn.Linear:
    """Train projector and a linear layer on the mean token; return the latter."""
    how = recipe.projector
    targets, scores = _targets(train)
    probe = nn.Linear(grader.config.language_model.width, targets.shape[1])
    weights = torch.full((targets.shape[1],), how.auxiliary)
    weights[:scores] = 1.0
    parameters = [*grader.projector.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(
        {"params": [p], "weight_decay": how.weight_decay if p.ndim > 1 else 0.0} for p in parameters
    )
    order = [
        batch
        for epoch in range(how.epochs)
        for batch in epoch_order(
            train, how.batch_size, np.random.default_rng((recipe.seed, 1000 + epoch))
        )
    ]
    grader.train()
    grader.set_dropout(how.dropout, 0.0)
    for step, index in enumerate(tqdm(order, desc="projector", unit="", leave=False)):
        rate = how.lr * 0.5 * (1 + math.cos(math.pi * step / len(order)))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50)
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        tokens = _tokens(grader, features, index)
        said = probe(torch.stack([item.mean(0) for item in tokens]))
        scale = weights.sqrt()
        loss = multi_target_mse(said * scale, targets[index] * scale)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return probe


def _targets(train: Corpus) -> tuple[Tensor, int]:
    """Return standardised targets float32 [n, S + X], and how many of them S are scores."""
    columns: list[NDArray[np.float64]] = [train.targets]
    if train.auxiliary is not None:
        columns.append(train.auxiliary)
    table = np.concatenate(columns, axis=1)
    spread = table.std(0)
    table = (table - table.mean(0)) / np.where(spread > 0, spread, 1.0)
    return torch.from_numpy(table).float(), train.targets.shape[1]


def _tokens(grader: SpeechLLM, features: FrozenFeatures, index: list[int]) -> list[Tensor]:
    batch = features.batch(index)
    return grader.audio_tokens(batch.mel, frames_of(batch.lengths), batch.owner)


@torch.inference_mode()
def _all_tokens(grader: SpeechLLM, features: FrozenFeatures, count: int) -> list[Tensor]:
    tokens: list[Tensor] = []
    for start in range(0, count, BATCH):
        tokens += _tokens(grader, features, list(range(start, min(start + BATCH, count))))
    return [item.clone() for item in tokens]
