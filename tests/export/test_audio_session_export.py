"""Session graders on audio language models' own ears, a Whisper beside them for the prior."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import audio_llm_samples as audio
import numpy as np
import pytest
import session_samples as samples
import torch
import training_samples

import asa_engine as asa
from asa_engine.bundle import Bundle
from asa_engine.errors import CheckpointError, UsageError
from asa_engine.evaluation.sessions import played, read_sessions
from asa_engine.evaluation.splits import session_split
from asa_engine.graders.speech_llm_session.config import SessionConfig
from asa_engine.graders.speech_llm_session.model import SessionLLM
from asa_engine.graders.speech_llm_session.runtime import SessionRun, stage_names
from asa_engine.graders.speech_llm_session.stages import SessionStages
from asa_engine.nn.audio_language_model import load_backbones
from asa_engine.profiling import StageClock
from asa_engine.training import train
from asa_export.exporter import export, plan
from asa_export.speech import Recording, Speech

# Points of a scale from 0 to 10: float32 sums in another order, through all stages.
TOLERANCE = 1e-3
# Phi-4 whose session ends in LongRoPE's first regime, and whose ends in its second.
KINDS = {"qwen2_audio": {}, "phi4_multimodal": {"original": 400}, "phi4 long": {"original": 100}}


def speech() -> Speech:
    """Return a session to calibrate and one to judge on."""
    sources = [
        tuple((part, response) for part, some in said.items() for response in some)
        for said in (samples.session(), {"P1": [samples.sound(2.5, 11)]})
    ]
    judged, calibrated = (Recording(str(n), source) for n, source in enumerate(sources))
    return Speech("short", [calibrated], [judged])


def family(kind: str) -> str:
    return "phi4_multimodal" if kind.startswith("phi4") else kind


@pytest.fixture(scope="module", params=[(k, p) for k in KINDS for p in ("first", "last")])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    kind, position = request.param
    folder = tmp_path_factory.mktemp("made")
    checkpoint = samples.audio_checkpoint(folder, family(kind), position, **KINDS[kind])
    variants = plan(["onnx"], ["fp32"], "speech_llm_session")
    export(checkpoint, folder / "bundle", variants, speech())
    return kind, checkpoint, folder / "bundle"


def test_reference_and_bundle_say_what_hugging_face_says(made: tuple[str, Path, Path]) -> None:
    kind, checkpoint, bundle = made
    grader = SessionLLM.load(checkpoint)
    theirs = audio.model(family(kind), **KINDS[kind])
    theirs = audio.with_adapters(grader.speech, theirs, family(kind))
    found = grader.assess(samples.session())
    expected, length = _hugging_face(grader, theirs, family(kind), found.prior_probabilities)
    assert length > 100
    assert found.scores == pytest.approx(expected, abs=1e-4)

    opened = Bundle.open(bundle)
    config = SessionConfig.from_dict(opened.config)
    assert config.keeps_beginning == (config.prior.position == "last" and kind != "phi4 long")
    files = {name: opened.file(name, "onnxruntime", "fp32") for name in stage_names(config)}
    stages = SessionStages(config, files, precision="fp32", threads=1)
    run = SessionRun(config, stages, StageClock())
    for part, responses in samples.session().items():
        for response in responses:
            run.begin(part)
            for piece in np.array_split(response, 3):
                run.push(piece)
                run.provisional()  # what it reads and forgets passes from regime to regime
            run.end()
    grade = run.finish()
    assert grade is not None
    scores = {name: score.value for name, score in grade.scores.items()}
    assert scores == pytest.approx(expected, abs=TOLERANCE)


@torch.inference_mode()
def _hugging_face(
    grader: SessionLLM, theirs: Any, kind: str, prior: np.ndarray
) -> tuple[dict[str, float], int]:
    """Return the scores of the session by Hugging Face's class, and the sequence's length."""
    config, prompt = grader.config, grader.config.speech.prompt
    core = theirs.model.language_model if kind == "qwen2_audio" else theirs.model
    ids, rows, seen = list(prompt.prefix_ids), [], []
    hook = core.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    for part in config.parts:
        ids += part.heading_ids
        for response in samples.session()[part.name]:
            for start in range(0, len(response), 32_000):
                inputs, count = audio.heard(kind, response[start : start + 32_000])
                clip = torch.full((1, count), audio.AUDIO_TOKEN)
                theirs(input_ids=clip, attention_mask=torch.ones_like(clip), **inputs)
                rows.append(seen.pop())
                ids += clip[0].tolist()
            ids += config.between_ids
    hook.remove()
    at = 0 if config.prior.position == "first" else len(ids)
    ids.insert(at, 0)
    sequence = torch.tensor([*ids, *prompt.suffix_ids])
    embedded = core.embed_tokens(sequence)
    embedded[sequence == audio.AUDIO_TOKEN] = torch.cat(rows)
    token = torch.from_numpy(prior).float() @ grader.prior.projector.weight.T
    embedded[at] = token + grader.prior.projector.bias
    mask = torch.ones(1, len(sequence), dtype=torch.long)
    hidden = core(inputs_embeds=embedded[None], attention_mask=mask).last_hidden_state[0, -1]
    assert grader.speech.head is not None
    points = grader.speech.scores(grader.speech.head(hidden)[None])[0].double().numpy()
    points = config.pooled(points, prior.astype(np.float64)).clip(0, 10)
    scores = dict(zip(samples.PARTS, points.tolist(), strict=False))
    return {**scores, "overall": float(np.mean(list(scores.values())))}, len(sequence)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_the_engine_scores_sessions(made: tuple[str, Path, Path], backend: str) -> None:
    engine = asa.load(made[2], backend=backend, precision="fp32", threads=1)
    stream = engine.session()
    for part, responses in samples.session().items():
        for response in responses:
            stream.begin(part)
            stream.feed(response)
            stream.end()
    found = stream.finish()
    # Tones are no speech to the front; what is scored says so, and what is not is told why.
    assert set(found.scores) <= {*samples.PARTS, "overall"}


def test_a_prior_without_ears_of_its_own_is_refused(tmp_path: Path) -> None:
    checkpoint = samples.audio_checkpoint(tmp_path, "qwen2_audio")
    fields = SessionConfig.load(checkpoint).to_dict()
    fields["prior"]["encoder"] = None
    with pytest.raises(CheckpointError, match=r"prior\.encoder"):
        SessionConfig.from_dict(fields)


def test_the_kernels_refuse_a_second_regime(tmp_path: Path) -> None:
    checkpoint = samples.audio_checkpoint(tmp_path, "phi4_multimodal", original=100)
    variants = plan(["native"], ["fp32"], "speech_llm_session")
    with pytest.raises(UsageError, match="one regime of LongRoPE, 100 positions"):
        export(checkpoint, tmp_path / "bundle", variants, speech())


@torch.inference_mode()
def test_sequences_of_a_batch_are_each_of_their_own_regime(tmp_path: Path) -> None:
    checkpoint = samples.audio_checkpoint(tmp_path, "phi4_multimodal", original=100)
    grader = SessionLLM.load(checkpoint)
    _, model = load_backbones(tmp_path / "model", tmp_path / "model")
    rows = model.embed(torch.arange(120) % 90)
    both = grader.answer([rows[:90], rows])
    alone = torch.cat([grader.answer([rows[:90]]), grader.answer([rows])])
    torch.testing.assert_close(both, alone)


@pytest.mark.parametrize("kind", ["qwen2_audio", "phi4 long"])
def test_a_recipe_goes_from_training_to_scores(kind: str, tmp_path: Path) -> None:
    changes = {"original": 40} if kind == "phi4 long" else {}
    folder = training_samples.audio_session(tmp_path, family(kind), **changes)
    checkpoint = train(folder / "small.toml", folder / "out")
    report = json.loads((checkpoint / "training.json").read_text())
    losses = [look["loss"] for look in report["runs"]["last"]["history"]]
    assert np.isfinite(losses).all()
    grader = SessionLLM.load(checkpoint)
    assert grader.config.prior.backbone.endswith("whisper")
    assert {name.partition(".")[0] for name in grader.tuned()} == {"speech", "prior"}
    assert not any("projector" in name for name in grader.speech.tuned())
    dev = session_split(read_sessions(folder / "sessions.jsonl"))[1]
    sources = [
        tuple(
            (part.name, np.concatenate(list(played(response))))
            for part in session.parts
            for response in part.responses
        )
        for session in dev
    ]
    expected = [
        grader.assess({part: [x for name, x in source if name == part] for part, _ in source})
        for source in sources
    ]
    errors = [
        found.scores["overall"] - session.scores["overall"]
        for found, session in zip(expected, dev, strict=True)
    ]
    # Audio tokens are kept as float16 between the stages.
    rmse = float(np.sqrt(np.mean(np.square(errors))))
    assert rmse == pytest.approx(report["dev"]["overall"]["rmse"], abs=5e-3)
    recordings = [Recording(str(n), source) for n, source in enumerate(sources)]
    variants = plan(["onnx"], ["fp32"], "speech_llm_session")
    made = export(checkpoint, folder / "bundle", variants, Speech("dev", recordings, recordings))
    assert made.parity[0].aspects["overall"].max < TOLERANCE


def test_ears_and_prior_of_a_recipe_go_together(tmp_path: Path) -> None:
    folder = training_samples.audio_session(tmp_path, "qwen2_audio")
    text = (folder / "small.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("prior_encoder")]
    (folder / "small.toml").write_text("\n".join(lines))
    with pytest.raises(UsageError, match="names no prior_encoder"):
        train(folder / "small.toml", folder / "out")
