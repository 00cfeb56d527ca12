"""The training run: phases, epochs, early stopping, resuming."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.evaluation.metrics import pcc
from asa_engine.files import read_json
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.nn.weights import load_whisper_encoder
from asa_engine.nn.whisper import EncoderLayer
from asa_engine.training.acoustic.frozen import FrozenFeatures
from asa_engine.training.acoustic.kernel import fit_kernel
from asa_engine.training.acoustic.recipe import AcousticRecipe, PhaseRecipe
from asa_engine.training.acoustic.report import REPORT_NAME, calibrated, evaluate_dev, write_report
from asa_engine.training.acoustic.steps import (
    Bf16Encoder,
    Network,
    Targets,
    learning_rate,
    losses,
    parameter_groups,
)
from asa_engine.training.data import Batch, Corpus, epoch_order, load_corpus, make_batch
from asa_engine.training.state import (
    Progress,
    copy_weights,
    load_modules,
    load_moments,
    load_progress,
    save_state,
)
from asa_engine.training.subnormals import flushed_subnormals

__all__ = ["Trainer", "train"]

SAVE_EVERY_S = 60.0
GRADIENT_NORM = 2.0
ADAM_BETAS = (0.9, 0.98)
EVALUATION_BATCH = 32
# Streams of chance, so that no two uses of the seed draw the same numbers.
_ORDER, _AUGMENT, _DROPOUT, _INIT = range(4)


def train(recipe_path: str | Path, output: str | Path, resume: bool = True) -> Path:
    """Train a grader and write its checkpoint and report.

    The run keeps its state beside the output, in `<output>.training`, and goes on from there
    after a kill; the result is bit for bit the same. The folder goes away when all is done.

    Args:
        recipe_path: TOML file, or the name of a shipped recipe.
        output: Checkpoint folder: config.json, weights.safetensors, report.json.
        resume: Go on with a run of the same recipe; False starts anew.

    Returns:
        The output folder.

    Raises:
        UsageError: The recipe is wrong, or the disk is full (the last state stays).
        ManifestError: The corpus cannot be used.
        CheckpointError: The encoder's weights, or the state to resume, cannot be used.
    """
    recipe = AcousticRecipe.load(recipe_path)
    output = Path(output)
    if resume and _finished(output, recipe):
        return output
    work = output.with_name(output.name + ".training")
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    with flushed_subnormals():
        Trainer(recipe, output, work).run()
    shutil.rmtree(work, ignore_errors=True)
    return output


def _finished(output: Path, recipe: AcousticRecipe) -> bool:
    if not (output / REPORT_NAME).is_file():
        return False
    return read_json(output / REPORT_NAME, CheckpointError).get("recipe_sha256") == recipe.digest


class Trainer:
    """One run of one recipe.

    Args:
        recipe: What to do.
        output: Where the checkpoint goes.
        work: Where the state is kept meanwhile.
    """

    def __init__(self, recipe: AcousticRecipe, output: Path, work: Path) -> None:
        torch.set_num_threads(recipe.threads)
        self.recipe = recipe
        self.output = output
        self.work = work
        aspects = [aspect.name for aspect in recipe.grader.aspects]
        self.corpus, self.dev, phones = load_corpus(
            recipe.sides(),
            aspects,
            recipe.data.targets,
            recipe.data.limit,
            recipe.grader.front,
            recipe.augment,
            recipe.seed,
        )
        self._check_losses(bool(phones))
        torch.manual_seed(self._seed(_INIT))
        self.model = Network(self._fresh_grader(), len(phones))
        self.average = copy.deepcopy(self.model)
        self.best = copy.deepcopy(self.model)
        grader = self.model.grader
        self.targets = Targets(
            self.corpus, grader.score_mean, grader.score_std, grader.config.prior_levels
        )
        self.progress = Progress(recipe.digest)
        self.optimizer: torch.optim.AdamW
        self.names: dict[Tensor, str] = {}
        self.features: FrozenFeatures | None = None
        self.dev_features: FrozenFeatures | None = None

    def run(self) -> None:
        """Run every phase that is not done yet, then write checkpoint and report."""
        started = time.monotonic()
        moments: dict[str, Tensor] = {}
        if (found := load_progress(self.work, self.recipe.digest)) is not None:
            self.progress, state = found
            moments = load_modules(state, self._modules())
        for index, phase in enumerate(self.recipe.phases):
            if index < self.progress.phase:
                continue
            self._begin(phase)
            load_moments(moments, self.optimizer, self.names)
            moments = {}
            self._run_phase(phase)
            self._next_phase()
        self._write(time.monotonic() - started)

    def _begin(self, phase: PhaseRecipe) -> None:
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = phase.dropout
        for layer in self.model.grader.encoder.layers:
            assert isinstance(layer, EncoderLayer)
            layer.dropout.p = phase.encoder_dropout
        groups = parameter_groups(self.model, phase)
        # One tensor at a time: the fused forms differ in the last bits between versions.
        self.optimizer = torch.optim.AdamW(groups, betas=ADAM_BETAS, foreach=False)
        self.names = {parameter: name for name, parameter in self.model.named_parameters()}

    def _next_phase(self) -> None:
        copy_weights(self.best, self.model)
        copy_weights(self.best, self.average)
        self.progress = Progress(
            self.recipe.digest, self.progress.phase + 1, history=self.progress.history
        )
        self.optimizer.state.clear()
        self._save()

    def _run_phase(self, phase: PhaseRecipe) -> None:
        if phase.encoder_lr == 0:
            self.features = self.features or self._frozen(self.corpus, "train frames")
            self.dev_features = self.dev_features or self._frozen(self.dev, "dev frames")
        else:
            self.features = self.dev_features = None
        shadow = Bf16Encoder(self.model.grader.encoder) if phase.bf16 and phase.encoder_lr else None
        per_epoch = len(epoch_order(self.corpus, phase.batch_size, self._rng(_ORDER, 0)))
        steps = per_epoch * phase.epochs
        saved = time.monotonic()
        while self.progress.step < steps and self.progress.stale < phase.patience:
            epoch, done = divmod(self.progress.step, per_epoch)
            order = epoch_order(self.corpus, phase.batch_size, self._rng(_ORDER, epoch))
            title = f"{phase.name} {epoch + 1}/{phase.epochs}"
            bar = tqdm(total=per_epoch, initial=done, desc=title, unit="step", leave=False)
            with bar:
                for batch in self._batches(order[done:]):
                    self._step(batch, phase, steps, shadow)
                    bar.update()
                    last = self.progress.step % per_epoch == 0
                    if not last and time.monotonic() - saved > SAVE_EVERY_S:
                        self._save()
                        saved = time.monotonic()
            self._end_epoch(phase, epoch, per_epoch)
            self._save()
            saved = time.monotonic()

    def _batches(self, order: list[list[int]]) -> Iterator[Batch]:
        """Yield the batches of an epoch; the next one is made while this one is used."""
        if self.features is not None:
            yield from (self.features.batch(index) for index in order)
            return
        recipe, first = self.recipe, self.progress.step
        with ThreadPoolExecutor(1) as pool:
            jobs = (
                pool.submit(
                    make_batch,
                    self.corpus,
                    index,
                    recipe.grader,
                    recipe.augment,
                    self._rng(_AUGMENT, first + offset),
                )
                for offset, index in enumerate(order)
            )
            ahead = next(jobs, None)
            while ahead is not None:
                batch, ahead = ahead.result(), next(jobs, None)
                yield batch

    def _step(
        self, batch: Batch, phase: PhaseRecipe, steps: int, shadow: Bf16Encoder | None
    ) -> None:
        progress, model = self.progress, self.model
        torch.manual_seed(self._seed(_DROPOUT, progress.step))
        model.train()
        factor = learning_rate(progress.step, steps, phase.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        if phase.encoder_lr == 0:
            frames = model.grader.mix(list(batch.mel.unbind(1)))
            frames = frames + phase.feature_noise * torch.randn_like(frames)
        else:
            encode = shadow if shadow is not None else model.grader.encoder
            frames = model.grader.mix(encode(batch.mel, batch.lengths))
        found = losses(model, frames, batch, self.targets, phase)
        self.optimizer.zero_grad()
        found["total"].backward()  # type: ignore[no-untyped-call]
        if shadow is not None:
            shadow.take_gradients()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        if shadow is not None:
            shadow.update()
        progress.step += 1
        decay = min(phase.ema, (1 + progress.step) / (20 + progress.step))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), model.parameters(), strict=True)
            for mean, weight in pairs:
                if weight.requires_grad:
                    mean.lerp_(weight, 1 - decay)
        for name, value in found.items():
            progress.losses[name] = progress.losses.get(name, 0.0) + value.item()

    def _end_epoch(self, phase: PhaseRecipe, epoch: int, per_epoch: int) -> None:
        progress = self.progress
        figures = self._dev_pcc()
        mean = float(np.mean(list(figures.values())))
        if progress.best is None or mean > progress.best:
            progress.best, progress.stale = mean, 0
            copy_weights(self.average, self.best)
        else:
            progress.stale += 1
        entry: dict[str, Any] = {
            "phase": phase.name,
            "epoch": epoch + 1,
            "losses": {name: value / per_epoch for name, value in progress.losses.items()},
            "dev_pcc": figures,
        }
        progress.history.append(entry)
        progress.losses = {}
        shown = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
        loss = entry["losses"]["total"]
        tqdm.write(f"{phase.name} {epoch + 1}/{phase.epochs}: loss {loss:.3f}, dev PCC {shown}")

    def _dev_pcc(self) -> dict[str, float]:
        predicted = self._predict(self.average)
        aspects = self.recipe.grader.aspects
        return {
            aspect.name: pcc(predicted[:, i], self.dev.scores[:, i])
            for i, aspect in enumerate(aspects)
        }

    @torch.inference_mode()
    def _predict(self, network: Network) -> NDArray[np.float32]:
        """Return the average's scores of every dev recording, batched, [n, A]."""
        network.eval()
        dev, grader = self.dev, network.grader
        scores = np.zeros((len(dev), len(self.recipe.grader.aspects)), dtype=np.float32)
        order = np.argsort([len(audio) for audio in dev.audio], kind="stable").tolist()
        for start in range(0, len(order), EVALUATION_BATCH):
            index = order[start : start + EVALUATION_BATCH]
            if self.dev_features is not None:
                batch = self.dev_features.batch(index)
                frames = grader.mix(list(batch.mel.unbind(1)))
            else:
                batch = make_batch(dev, index, self.recipe.grader)
                frames = grader.mix(grader.encoder(batch.mel, batch.lengths))
            scores[index] = grader.head(network.summed(frames, batch)).scores.numpy()
        return scores

    def _write(self, seconds: float) -> None:
        grader, kernel = self.best.grader, None
        grader.round_halves()
        if self.recipe.kernel is not None:
            features = self.features or self._frozen(self.corpus, "train frames")
            fit = fit_kernel(grader, self.corpus, features, self.recipe.kernel)
            grader, kernel = fit.grader, fit.figures
        dev = evaluate_dev(grader.eval(), self.dev)
        grader.config = calibrated(grader.config, self.dev, dev)
        report = write_report(self.recipe, self.dev, dev, self.progress, kernel, seconds)
        grader.save(self.output, overwrite=True, extra={REPORT_NAME: report})

    def _frozen(self, corpus: Corpus, title: str) -> FrozenFeatures:
        return FrozenFeatures(self.best.grader.encoder, self.recipe.grader, corpus, title)

    def _save(self) -> None:
        save_state(self.work, self.progress, self._modules(), self.optimizer, self.names)

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "average": self.average, "best": self.best}

    def _fresh_grader(self) -> AcousticGrader:
        """Build the grader with pretrained encoder weights and the corpus's mean and spread."""
        source, config = self.recipe.encoder.source, self.recipe.grader
        encoder = None
        if source != "random":
            encoder = load_whisper_encoder(self._encoder_source(source), config.window_frames)
            config = dataclasses.replace(config, encoder=encoder.config)
        config = AcousticConfig.from_dict(config.to_dict())
        grader = AcousticGrader(config)
        if encoder is not None:
            grader.encoder = encoder
        grader.score_mean.copy_(torch.from_numpy(self.corpus.targets.mean(0)))
        grader.score_std.copy_(torch.from_numpy(np.maximum(self.corpus.targets.std(0), 1e-3)))
        self.recipe = dataclasses.replace(self.recipe, grader=config)
        return grader

    def _encoder_source(self, source: str) -> str:
        if source.startswith("package:") or Path(source).is_absolute():
            return source
        return str(self.recipe.folder / source)

    def _check_losses(self, has_words: bool) -> None:
        for phase in self.recipe.phases:
            if (phase.ctc or phase.auxiliary) and not has_words:
                raise UsageError(
                    f"phase {phase.name} has a weight on ctc or auxiliary, which need words with "
                    "phones on every line of the manifest",
                    hint="set both weights to 0",
                )

    def _rng(self, stream: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, self.progress.phase, stream, number])

    def _seed(self, stream: int, number: int = 0) -> int:
        phase = self.progress.phase if stream != _INIT else 0
        sequence = np.random.SeedSequence([self.recipe.seed, phase, stream, number])
        return int(sequence.generate_state(1, np.uint64)[0]) >> 1
