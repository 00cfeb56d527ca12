"""Verdicts in training: as tokens, their likelihoods, pairs of them, and what the model writes.

All likelihoods are under the grammar: a label's is its share among the five labels, because that
is all the decoder chooses from; what it is forced to write costs nothing.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from asa_engine.evaluation.metrics import pcc
from asa_engine.graders.multi_granular.config import ASPECTS, GRAINS, MultiGranularConfig
from asa_engine.graders.multi_granular.model import MultiGranular
from asa_engine.graders.multi_granular.plan import Decision, Plan, plan_of, write
from asa_engine.graders.multi_granular.script import verdict_of_choices
from asa_engine.graders.multi_granular.verdict import GRAINS as CHANGES
from asa_engine.graders.multi_granular.verdict import Verdict, changed_once
from asa_engine.language_model.tokens import TextTokens
from asa_engine.nn.lora import LoraLinear
from asa_engine.objectives import bounded_dpo
from asa_engine.training.multi_granular.rationale import rationale_of
from asa_engine.training.multi_granular.readings import Reading
from asa_engine.training.multi_granular.recipe import PreferenceRecipe

__all__ = ["VerdictTokens", "judge", "preference_loss", "sft_loss", "tokens_of"]

BATCH = 32
MOST_ROUNDS = 6
"""Of decoding: later labels hardly ever change what was decided before."""


@dataclass(frozen=True, slots=True)
class VerdictTokens:
    """One verdict on one recording as tokens after the prompt's beginning.

    Attributes:
        plan: Of its text.
        audio: How many audio tokens come first.
        ids: Audio, prompt's end, verdict, rationale.
        decisions: The labels; positions are in `ids`.
        free: Position before each token of the rationale.
    """

    plan: Plan
    audio: int
    ids: tuple[int, ...]
    decisions: tuple[Decision, ...]
    free: tuple[int, ...]


def tokens_of(
    config: MultiGranularConfig, tokens: TextTokens, reading: Reading, extra: int
) -> VerdictTokens:
    """Return the experts' verdict on a reading.

    Args:
        config: The grader's.
        tokens: The language model's tokenizer.
        reading: The reading.
        extra: Its slots and audio tokens, counted together.
    """
    plan = plan_of(config, tokens, reading.words)
    rationale = tokens.encode(rationale_of(reading.verdict, reading.words))
    return _tokens_of(config, plan, reading.verdict, extra - plan.slots, rationale)


def _tokens_of(
    config: MultiGranularConfig,
    plan: Plan,
    verdict: Verdict,
    audio: int,
    rationale: Sequence[int] = (),
) -> VerdictTokens:
    first = config.language_model.vocabulary + plan.slots
    written = write(plan, verdict, rationale, config.end_ids[0])
    decisions = tuple(
        Decision(audio + item.position, item.grain, item.label, item.options)
        for item in written.decisions
    )
    ids = (*range(first, first + audio), *written.ids)
    return VerdictTokens(plan, audio, ids, decisions, tuple(audio + at for at in written.free))


def sft_loss(
    grader: MultiGranular,
    verdicts: Sequence[VerdictTokens],
    hidden: Sequence[Tensor],
    rationale: float,
) -> dict[str, Tensor]:
    """Return the losses of supervised fine-tuning.

    Sentence, words and phones count alike, however many there are.

    Args:
        grader: Its adapters learn.
        verdicts: The experts' verdicts.
        hidden: What left the layers without adapters, [n, W] each.
        rationale: Weight of the rationale's loss.

    Returns:
        `loss`, to be minimised; `labels` and `rationale`, its parts; all minus mean
        log-likelihoods.
    """
    outputs = _upper(grader, hidden)
    said = _log_probabilities(grader, verdicts, outputs)
    weights = torch.tensor([w for tokenised in verdicts for w in _weights(tokenised)])
    labels = -(torch.cat(said) * weights).sum() / len(verdicts)
    losses = {"labels": labels, "loss": labels}
    if any(tokenised.free for tokenised in verdicts):
        rows = torch.cat([out[list(s.free)] for out, s in zip(outputs, verdicts, strict=True)])
        wanted = torch.tensor([s.ids[at + 1] for s in verdicts for at in s.free])
        losses["rationale"] = F.cross_entropy(grader.logits(rows), wanted)
        losses["loss"] = labels + rationale * losses["rationale"]
    return losses


def preference_loss(
    grader: MultiGranular,
    readings: Sequence[Reading],
    verdicts: Sequence[VerdictTokens],
    extra: Sequence[Tensor],
    how: PreferenceRecipe,
    seed: Sequence[int],
) -> Tensor:
    """Return the bounded preference objective of pairs that differ in exactly one label.

    Args:
        grader: Its adapters learn; without them it is the reference.
        readings: The readings.
        verdicts: The experts' verdicts on them: the preferred ones.
        extra: Their slots and audio tokens.
        how: Sharpness and mix.
        seed: Of the changes.
    """
    chance = random.Random(repr(tuple(seed)))
    pairs = []
    for reading, tokenised in zip(readings, verdicts, strict=True):
        worse = changed_once(reading.verdict, chance.choice(CHANGES), chance)
        for verdict in (reading.verdict, worse):
            pairs.append(_tokens_of(grader.config, tokenised.plan, verdict, tokenised.audio))
    both = [item for item in extra for _ in range(2)]
    with torch.no_grad():
        _, prefix = grader.prefix(0, grader.config.lora.first_layer)
        rows = [
            _embedded(grader, tokenised, item) for tokenised, item in zip(pairs, both, strict=True)
        ]
        lower = grader.run(rows, 0, grader.config.lora.first_layer, prefix)
        with _adapters_off(grader):
            reference = _means(_log_probabilities(grader, pairs, _upper(grader, lower)))
    likelihoods = _means(_log_probabilities(grader, pairs, _upper(grader, lower)))
    return bounded_dpo(
        likelihoods[0::2],
        likelihoods[1::2],
        reference[0::2],
        reference[1::2],
        beta=how.beta,
        mix=how.mix,
    )


@torch.inference_mode()
def judge(
    grader: MultiGranular,
    readings: Sequence[Reading],
    verdicts: Sequence[VerdictTokens],
    extra: Sequence[Tensor],
) -> dict[str, Any]:
    """Decode verdicts greedily and compare them with the experts'.

    All labels are decided at once from a guess of all labels, then again from these, until
    nothing changes: then every label is the one that greedy decoding would have chosen.

    Returns:
        For each grain the correlation of `soft` (a label's scores under the labels'
        probabilities) and `hard` (the chosen label's score) with the experts' scores, and
        `agreement`, the share of equal labels; `settled`, the share of verdicts that stopped
        changing.
    """
    order = np.argsort([len(tokenised.ids) for tokenised in verdicts], kind="stable")
    shares: dict[int, Tensor] = {}
    settled = 0
    for some in tqdm(
        np.array_split(order, math.ceil(len(order) / BATCH)), desc="dev", unit="", leave=False
    ):
        open_ones = {int(i): [4] * len(verdicts[i].decisions) for i in some}
        for _ in range(MOST_ROUNDS):
            written = {
                i: _tokens_of(
                    grader.config,
                    verdicts[i].plan,
                    _verdict(verdicts[i].plan, labels),
                    verdicts[i].audio,
                )
                for i, labels in open_ones.items()
            }
            decided = _decide(grader, written, extra)
            shares |= decided
            after = {i: share.argmax(1).tolist() for i, share in decided.items()}
            settled += sum(after[i] == open_ones[i] for i in open_ones)
            open_ones = {i: after[i] for i in open_ones if after[i] != open_ones[i]}
            if not open_ones:
                break
    result: dict[str, Any] = {"settled": round(settled / len(verdicts), 4)}
    for grain in GRAINS:
        points = np.array(grader.config.label_scores[grain])
        soft, hard, wanted, agreed = [], [], [], []
        for i, share in shares.items():
            scores = _scores(readings[i], grain)
            at = [k for k, d in enumerate(verdicts[i].decisions) if d.grain == grain]
            rows = share[at].double().numpy()
            soft += (rows @ points).tolist()
            hard += points[rows.argmax(1)].tolist()
            agreed += [
                int(rows[n].argmax()) == verdicts[i].decisions[k].label for n, k in enumerate(at)
            ]
            wanted += scores
        result[grain] = {
            "soft": round(pcc(np.array(soft), np.array(wanted)), 4),
            "hard": round(pcc(np.array(hard), np.array(wanted)), 4),
            "agreement": round(float(np.mean(agreed)), 4),
        }
    return result


def _decide(
    grader: MultiGranular, written: dict[int, VerdictTokens], extra: Sequence[Tensor]
) -> dict[int, Tensor]:
    """Return the labels' probabilities [D, 5] at every decision."""
    _, prefix = grader.prefix(0, grader.layers)
    rows = [_embedded(grader, tokenised, extra[i]) for i, tokenised in written.items()]
    outputs = grader.run(rows, 0, grader.layers, prefix)
    decided = {}
    for (i, tokenised), out in zip(written.items(), outputs, strict=True):
        decided[i] = _label_logits(grader, [tokenised], [out]).softmax(-1)
    return decided


def _scores(reading: Reading, grain: str) -> list[float]:
    if grain in ASPECTS:
        return [reading.scores[ASPECTS.index(grain)]]
    return list(reading.word_scores if grain == "word" else reading.phone_scores)


def _verdict(plan: Plan, labels: Sequence[int]) -> Verdict:
    return verdict_of_choices(labels, [word.text for word in plan.words], plan.phones)


def _embedded(grader: MultiGranular, tokenised: VerdictTokens, extra: Tensor) -> Tensor:
    return grader.embed(tokenised.ids, extra).to(grader.language_model.dtype)


def _upper(grader: MultiGranular, hidden: Sequence[Tensor]) -> list[Tensor]:
    first = grader.config.lora.first_layer
    with torch.no_grad():
        below, _ = grader.prefix(0, first)
    _, prefix = grader.prefix(first, grader.layers, below)
    return grader.run(hidden, first, grader.layers, prefix)


def _label_logits(
    grader: MultiGranular, verdicts: Sequence[VerdictTokens], outputs: Sequence[Tensor]
) -> Tensor:
    """Return the five labels' logits at every decision of all verdicts, float32 [D, 5]."""
    rows = torch.cat(
        [out[[d.position for d in s.decisions]] for out, s in zip(outputs, verdicts, strict=True)]
    )
    options = [d.options for tokenised in verdicts for d in tokenised.decisions]
    ids = sorted({token for some in options for token in some})
    logits = grader.logits(rows, ids)
    columns = torch.tensor([[ids.index(token) for token in some] for some in options])
    return logits.gather(1, columns)


def _log_probabilities(
    grader: MultiGranular, verdicts: Sequence[VerdictTokens], outputs: Sequence[Tensor]
) -> list[Tensor]:
    """Return the log-probabilities of every verdict's labels."""
    said = _label_logits(grader, verdicts, outputs).log_softmax(-1)
    labels = torch.tensor([d.label for tokenised in verdicts for d in tokenised.decisions])
    picked = said.gather(1, labels[:, None])[:, 0]
    return list(torch.split(picked, [len(tokenised.decisions) for tokenised in verdicts]))


def _means(log_probabilities: Sequence[Tensor]) -> Tensor:
    return torch.stack([item.mean() for item in log_probabilities])


def _weights(tokenised: VerdictTokens) -> list[float]:
    """Return a weight for each decision: sentence, words and phones a third each."""
    kinds = [d.grain if d.grain not in ASPECTS else "sentence" for d in tokenised.decisions]
    return [1 / (len(set(kinds)) * kinds.count(kind)) for kind in kinds]


@contextlib.contextmanager
def _adapters_off(grader: MultiGranular) -> Iterator[None]:
    layers = [m for m in grader.language_model.modules() if isinstance(m, LoraLinear)]
    scales = [layer.scale for layer in layers]
    for layer in layers:
        layer.scale = 0.0
    try:
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scale = scale
