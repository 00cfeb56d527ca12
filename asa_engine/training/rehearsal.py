"""What a recipe asks for, checked and reckoned before anything starts: `train --dry-run`.

Memory is the weights of all models at once as float32, every recording as float32, and a fixed
part. Time is arithmetic at the rate of this machine's float32 products: two operations a position
and parameter, embeddings apart, for a pass forward, four more back. It counts layers below the
first adapter as if they learnt, too, and is rather too long: it tells an hour from a week.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import soundfile
import torch

from asa_engine.backbones import BACKBONES, backbone_folder
from asa_engine.backbones.stored import read_stored
from asa_engine.errors import ManifestError, UsageError
from asa_engine.evaluation.manifest import Utterance
from asa_engine.evaluation.splits import RULES
from asa_engine.language_model.limits import memory_bytes
from asa_engine.training.recipe import Model, Recipe
from asa_engine.training.targets import target_of

__all__ = ["Rehearsal", "check_memory", "rehearse"]

_FIXED_BYTES: Final = 400 * 2**20
"""Python, PyTorch and transformers, imported."""
_ITEM_BYTES: Final = 4
_SECOND_BYTES: Final = _ITEM_BYTES * 16_000
_ENCODER_SHARE: Final = 0.4
"""Of a Whisper's parameters that its encoder has, at most, where tensors have no names to tell."""
_SIDE: Final = 768
_TRIALS: Final = 3
_PACKAGE: Final = "package:"


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the corpus.

    Attributes:
        recordings: How many.
        speakers: Of how many speakers; those without a name count as one.
        hours: Of audio; recordings whose headers cannot be read count as the others' mean.
    """

    recordings: int
    speakers: int
    hours: float


@dataclass(frozen=True, slots=True)
class Weights:
    """A model that the recipe names.

    Attributes:
        role: What for.
        source: Its folder, or its name on the hub.
        bytes: On disk; 0 for one of the hub, which is not looked at.
        parameters: Of it, likewise.
        computing: Those of them that a position is multiplied with.
    """

    role: str
    source: str
    bytes: int
    parameters: int
    computing: int


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a recipe asks for.

    Attributes:
        recipe: Its name.
        train: What is learnt from.
        dev: What is held out.
        rule: Why it is.
        models: What it names.
        steps: Optimiser steps in all.
        memory_bytes: What it takes at its peak, roughly.
        machine_bytes: What this process may have; 0 where nothing tells.
        seconds: How long it takes here, roughly.
        threads: On so many.
    """

    recipe: str
    train: Side
    dev: Side
    rule: str
    models: tuple[Weights, ...]
    steps: int
    memory_bytes: int
    machine_bytes: int
    seconds: float
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def rehearse(recipe: Recipe) -> Rehearsal:
    """Check a recipe's corpus and models, and reckon what following it takes.

    Raises:
        UsageError: A file or folder is not there, or the machine has too little memory.
        ManifestError: The corpus cannot be used, or a line lacks what is trained on.
        CheckpointError: A model is not here, a shard is missing, or a file is damaged.
    """
    train, dev, rule = recipe.recordings()
    names, targets = recipe.wanted()
    for utterance in (*train, *dev):
        for name in names:
            target_of(utterance, name, targets)
    learnt, held = _side(train), _side(dev)
    audio_s = 3600 * (learnt.hours + held.hours)
    models = recipe.models(len(train))
    weights = tuple(_weights(model) for model in models)
    memory = _memory(weights) + round(audio_s * _SECOND_BYTES)
    check_memory(recipe, memory)
    operations = sum(
        2 * stored.computing * model.positions_a_second * audio_s * model.passes
        for model, stored in zip(models, weights, strict=True)
    )
    return Rehearsal(
        recipe.name,
        learnt,
        held,
        RULES[rule],
        weights,
        recipe.steps(len(train)),
        memory,
        memory_bytes(),
        operations / _operations_a_second(recipe.threads),
        recipe.threads,
    )


def check_memory(recipe: Recipe, needed: int | None = None) -> None:
    """Refuse a recipe whose models alone do not fit this machine.

    Args:
        recipe: It.
        needed: What it takes, where that is reckoned already.

    Raises:
        UsageError: It takes more than the machine has.
        CheckpointError: A model is not here, or damaged.
    """
    if needed is None:
        needed = _memory([_weights(model) for model in recipe.models(1)])
    if 0 < (there := memory_bytes()) < needed:
        raise UsageError(
            f"the recipe {recipe.name} takes about {needed / 1e9:.1f} GB of memory; "
            f"this machine has {there / 1e9:.1f} GB",
            hint="name smaller models, or train on a larger machine",
        )


def _memory(weights: Sequence[Weights]) -> int:
    held = {stored.source: stored.parameters for stored in weights}  # each is loaded once
    return _FIXED_BYTES + _ITEM_BYTES * sum(held.values())


def _weights(model: Model) -> Weights:
    source = model.source
    if source in BACKBONES:
        folder = backbone_folder(source)
    elif source.startswith(_PACKAGE):
        from asa_engine.nn.weights import package_folder

        folder = package_folder(source.removeprefix(_PACKAGE))
    else:
        folder = Path(source)
    if not folder.is_dir():
        return Weights(model.role, source, 0, 0, 0)
    stored = read_stored(folder)
    computing = sum(
        math.prod(tensor.shape)
        for name, tensor in stored.tensors.items()
        if model.part in name and "embed" not in name
    )
    if not stored.tensors:
        computing = round(stored.parameters * (_ENCODER_SHARE if model.part else 1.0))
    return Weights(model.role, str(folder), stored.bytes, stored.parameters, computing)


def _side(utterances: Sequence[Utterance]) -> Side:
    known = [seconds for u in utterances if (seconds := _seconds(u)) is not None]
    mean = sum(known) / len(known) if known else 0.0
    hours = (sum(known) + mean * (len(utterances) - len(known))) / 3600
    return Side(len(utterances), len({u.speaker for u in utterances}), round(hours, 4))


def _seconds(utterance: Utterance) -> float | None:
    if utterance.duration_s is not None:
        return utterance.duration_s
    try:
        info = soundfile.info(str(utterance.audio))
    except soundfile.LibsndfileError as failure:
        if utterance.audio.stat().st_size == 0:
            raise ManifestError(f"{utterance.id}: {utterance.audio} is empty") from failure
        return None  # a container that only the decoder reads
    return float(info.frames / info.samplerate)


def _operations_a_second(threads: int) -> float:
    """Return the rate of float32 matrix products here, the best of a few."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.ones(_SIDE, _SIDE), torch.ones(_SIDE, _SIDE)
        best = math.inf
        for _ in range(_TRIALS):
            start = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return 2 * _SIDE**3 / best
