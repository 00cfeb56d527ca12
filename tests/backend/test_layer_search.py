"""A precision for each layer: what the search tries, what it chooses, and the bundle it ends in."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from audio_samples import RATE_HZ, speech
from bench_samples import tuning_of

from asa_engine.bundle import Bundle, write_manifest
from asa_engine.engine import load
from asa_engine.errors import BundleError
from asa_engine.graders.acoustic.backends.native import MIXED, NativeBackend
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.graders.aspects import AspectConfig
from asa_engine.kernels.encoder import dense_precision
from asa_engine.nn.config import WhisperEncoderConfig
from asa_engine.tuning.layer_search import LayerSearch, LayerTrial, search_layers, searchable
from asa_engine.tuning.tune import Trial, write_tuned

CONFIG = WhisperEncoderConfig(n_mels=80, d_model=48, layers=3, heads=3, ffn=96, positions=60)
PLAN = "native.mixed.json"


def write(bundle: Path, stages: dict[str, dict[str, dict[str, str]]]) -> Bundle:
    write_manifest(
        bundle, name="b", version="1", grader="acoustic", stages=stages, auto=(), parity={}
    )
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a grader with random weights, in native variants."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("layers") / "bundle"
    aspects = (AspectConfig("fluency"), AspectConfig("total"))
    AcousticGrader(AcousticConfig(aspects=aspects, encoder=CONFIG, window_s=1.0)).save(folder)
    files = dict.fromkeys(("fp32", "bf16", "int8"), "weights.safetensors")
    write(folder, {"grader": {"native": files}})
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Bundle:
    shutil.copytree(made, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("speech")
    paths = [folder / f"{seed}.wav" for seed in range(2)]
    for seed, path in enumerate(paths):
        soundfile.write(path, speech(1.5, seed=seed), RATE_HZ)
    return paths


def test_a_generous_budget_takes_every_layer(bundle: Bundle, recordings: list[Path]) -> None:
    found = search_layers(bundle, recordings, budget_rms=1e3)
    assert found.layers == ("int8",) * 3
    assert len(found.trials) == 4  # each layer alone, then all: there is nothing left to ask


def test_no_budget_takes_none(bundle: Bundle, recordings: list[Path]) -> None:
    found = search_layers(bundle, recordings, budget_rms=0.0)
    assert found.layers == ()
    assert all(trial.drift_rms > 0 for trial in found.trials)


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each int8 layer moves scores by an amount of its own, far above what rounding does."""
    opened = NativeBackend.__init__

    def spoil(self: NativeBackend, *args: object, **kwargs: object) -> None:
        opened(self, *args, **kwargs)  # type: ignore[arg-type]
        layers = kwargs["layers"]
        assert isinstance(layers, tuple)
        move = sum(m for m, p in zip((2.0, 0.25, 0.5), layers, strict=True) if p == "int8")
        self._layer_weights = [weight * (1 + move) for weight in self._layer_weights]

    monkeypatch.setattr(NativeBackend, "__init__", spoil)


@pytest.mark.usefixtures("spoilt")
def test_the_most_tolerant_layers_join_first(bundle: Bundle, recordings: list[Path]) -> None:
    dense = dense_precision()
    generous = search_layers(bundle, recordings, budget_rms=1e9)
    alone = {t.layers.index("int8"): t.drift_rms for t in generous.trials[:3]}
    assert sorted(alone, key=lambda layer: alone[layer]) == [1, 2, 0]
    assert generous.layers == ("int8",) * 3
    between = (alone[1] + alone[2]) / 2
    assert search_layers(bundle, recordings, budget_rms=between).layers == (dense, "int8", dense)
    assert search_layers(bundle, recordings, budget_rms=alone[1] / 2).layers == ()


@pytest.mark.usefixtures("spoilt")
def test_what_int8_does_anyway_is_no_variant(bundle: Bundle, recordings: list[Path]) -> None:
    trials = search_layers(bundle, recordings, budget_rms=1e9).trials
    whole = trials[-1].drift_rms
    found = search_layers(bundle, recordings, budget_rms=0.99 * whole)
    assert (dense_precision(), "int8", "int8") in [trial.layers for trial in found.trials]
    assert found.layers == ()


def test_the_same_recordings_the_same_choice(bundle: Bundle, recordings: list[Path]) -> None:
    assert search_layers(bundle, recordings, budget_rms=0.01) == search_layers(
        bundle, recordings, budget_rms=0.01, threads=2
    )


def test_only_what_has_native_weights_is_searched(bundle: Bundle) -> None:
    assert searchable(bundle)
    assert not searchable(replace(bundle, grader="text"))
    assert not searchable(replace(bundle, stages={"grader": {"torch": {"fp32": "w"}}}))


def tuned(bundle: Bundle, folder: Path, layers: tuple[str, ...], *best: str) -> Bundle:
    trials = tuple(Trial("native", p, 1, 0.01, 0.02, True, 3.0, 3.0) for p in best)
    found = LayerSearch(layers, (LayerTrial(layers, 0.01),))
    tuning = tuning_of(bundle, trials, layers=found)
    write_tuned(bundle, tuning, folder, overwrite=folder == bundle.path)
    return Bundle.open(folder)


def test_a_tuned_bundle_runs_its_plan(bundle: Bundle, tmp_path: Path) -> None:
    layers = ("int8", "bf16", "int8")
    found = tuned(bundle, tmp_path / "tuned", layers, MIXED, "int8")
    assert json.loads((found.path / PLAN).read_text()) == {"layers": list(layers)}
    assert [name for name in found.artifacts if name.startswith("packed/")]
    engine = load(found)
    assert (engine.choice.backend, engine.choice.precision) == ("native", MIXED)
    result = engine.assess((speech(1.5, seed=3), RATE_HZ))
    assert result.receipt["artifacts_sha256"]["grader/" + PLAN] == found.artifacts[PLAN].sha256
    mel = np.random.default_rng(0).uniform(-1, 1, (80, 100)).astype(np.float32)
    stats = {
        p: NativeBackend.open(found, precision=p, threads=1).encode(mel).stats
        for p in (MIXED, "int8", "bf16")
    }
    assert not np.array_equal(stats[MIXED], stats["int8"])
    assert not np.array_equal(stats[MIXED], stats["bf16"])


def test_tuning_again_leaves_nothing_of_the_first(bundle: Bundle) -> None:
    once = tuned(bundle, bundle.path, ("int8",) * 3, MIXED)
    first = {name for name in once.artifacts if name.startswith("packed/")}
    again = tuned(once, bundle.path, (), "bf16")
    assert PLAN not in again.artifacts
    assert ("native", MIXED) not in again.variants()
    second = {name for name in again.artifacts if name.startswith("packed/")}
    assert len(second) == 1
    assert first != second


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"layers": 3},
        {"layers": ["int8"] * 2},
        {"layers": ["int8", "int4", "bf16"]},
        {"layers": [["int8"], "int8", "int8"]},
        {"layers": [None] * 3},
    ],
)
def test_a_plan_that_makes_no_sense(bundle: Bundle, plan: dict[str, object]) -> None:
    (bundle.path / PLAN).write_text(json.dumps(plan))
    opened = write(bundle.path, {"grader": {"native": {MIXED: PLAN}}})
    with pytest.raises(BundleError, match="names no precision of fp32, bf16, int8 for each of 3"):
        NativeBackend.open(opened, precision=MIXED, threads=1)
