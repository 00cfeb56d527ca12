"""The session grader's reference on tiny random backbones of the real classes."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("transformers", reason="needs the extra 'bench'")

import speech_llm_samples as samples  # noqa: E402

from asa_engine.errors import AudioError, CheckpointError  # noqa: E402
from asa_engine.graders.speech_llm.prompt import encode_template  # noqa: E402
from asa_engine.graders.speech_llm.session import SessionLLM  # noqa: E402
from asa_engine.graders.speech_llm.session_config import (  # noqa: E402
    PartConfig,
    PriorConfig,
    SessionConfig,
)
from asa_engine.nn.language_model import LanguageModel  # noqa: E402
from asa_engine.nn.lora import merge_lora  # noqa: E402

# float32 through a few layers of width 32; sums run in another order.
TOLERANCE = 2e-5
PARTS = ("P1", "P3", "P4", "P5")


def _config(position="first", **changes):
    tokenizer = samples.tokenizer()
    speech = samples.config(
        samples.language_model(), answer="regression", aspects=(*PARTS, "overall")
    )
    return SessionConfig(
        speech=speech,
        parts=tuple(
            PartConfig(name, f"{name}:", encode_template(tokenizer, f"{name}:")) for name in PARTS
        ),
        prior=PriorConfig(levels=(2.0, 3.0, 4.5), width=8, position=position),
        between=";",
        between_ids=encode_template(tokenizer, ";"),
        missing="-none-",
        missing_ids=encode_template(tokenizer, "-none-"),
        **{"max_responses": 8, "max_audio_s": 40.0, **changes},
    )


def _grader(position="first", **changes):
    torch.manual_seed(1)
    grader = SessionLLM(
        _config(position, **changes),
        samples.encoder(),
        LanguageModel(samples.language_model()),
    ).eval()
    samples.randomise_adapters(grader)
    return grader


def _speech(seconds, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.1, round(seconds * 16_000)).astype(np.float32)


def _session():
    return {
        "P1": [_speech(1.2, 1), _speech(0.5, 2)],
        "P3": [_speech(3.3, 3)],
        "P4": [_speech(2.0, 4)],
        "P5": [_speech(0.8, 5), _speech(0.9, 6), _speech(1.0, 7)],
    }


@torch.no_grad()
def _by_hand(grader, session, position):
    """The whole computation as one sequence through Hugging Face's own model."""
    speech = grader.speech
    embed = speech.language_model.decoder.embed_tokens

    def ids(text):
        return embed(torch.tensor(encode_template(samples.tokenizer(), text)))

    body, total, count = [ids("<|im_start|>Grade:\n")], 0, 0
    for part in PARTS:
        body.append(ids(f"{part}:"))
        if not session.get(part):
            body.append(ids("-none-"))
        for audio in session.get(part, []):
            heard = grader.hear(audio)
            total, count = total + heard.total, count + heard.frames
            body += [heard.tokens, ids(";")]
    mean = (total / count).float()
    p = grader.prior
    inner = torch.nn.functional.gelu(p.fc1(p.norm(mean)))
    share = torch.softmax(p.fc2(inner), 0)
    token = p.projector(share)[None]
    body = [token, *body] if position == "first" else [*body, token]
    sequence = torch.cat([*body, ids("<|im_end|>=")])
    merged = copy.deepcopy(speech.language_model.decoder)
    merge_lora(merged)
    hidden = merged(inputs_embeds=sequence[None]).last_hidden_state[0, -1]
    return (5 + 5 * speech.head(hidden)).numpy(), share.numpy(), len(sequence)


@pytest.mark.parametrize("position", ["first", "last"])
def test_reference_is_one_sequence_with_the_prior_in_its_place(position):
    grader = _grader(position)
    said, share, length = _by_hand(grader, _session(), position)
    found = grader.assess(_session())
    np.testing.assert_allclose(found.prior_probabilities, share, rtol=TOLERANCE)
    held = np.clip(said, 0, 10)
    np.testing.assert_allclose([found.scores[p] for p in PARTS], held[:4], rtol=TOLERANCE)
    assert found.scores["overall"] == pytest.approx(held[:4].mean(), rel=TOLERANCE)
    assert found.predicted_overall == pytest.approx(said[4], rel=TOLERANCE)
    assert found.missing == ()
    assert length <= grader.config.longest_sequence


def test_the_place_of_the_prior_matters():
    assert _grader("first").assess(_session()) != _grader("last").assess(_session())


def test_the_prior_may_have_a_share_in_the_scores():
    grader = _grader()
    said = grader.assess(_session())
    prior = dataclasses.replace(grader.config.prior, share=0.25)
    grader.config = dataclasses.replace(grader.config, prior=prior)
    level = float(said.prior_probabilities @ np.array([2.0, 3.0, 4.5]))
    found = grader.assess(_session()).scores
    unheld, _, _ = _by_hand(grader, _session(), "first")
    expected = np.clip(0.75 * unheld[:4] + 0.25 * level, 0, 10)
    np.testing.assert_allclose([found[p] for p in PARTS], expected, rtol=TOLERANCE)


def test_the_prior_reaches_the_scores():
    grader, other = _grader(), _grader()
    with torch.no_grad():
        other.prior.fc2.bias.add_(torch.tensor([0.0, 0.0, 9.0]))
    assert grader.assess(_session()).predicted_overall != pytest.approx(
        other.assess(_session()).predicted_overall, rel=1e-3
    )


@pytest.mark.parametrize("lost", [None, [], [np.zeros(50, np.float32)]])
def test_a_missing_part_has_no_score_and_is_told(lost):
    session = _session()
    del session["P3"]
    said, _, _ = _by_hand(_grader(), session, "first")
    if lost is not None:
        session["P3"] = lost
    found = _grader().assess(session)
    assert found.missing == ("P3",)
    assert set(found.scores) == {"P1", "P4", "P5", "overall"}
    held = np.clip(said, 0, 10)[[0, 2, 3]]
    np.testing.assert_allclose([found.scores[p] for p in ("P1", "P4", "P5")], held, rtol=TOLERANCE)
    assert found.scores["overall"] == pytest.approx(held.mean(), rel=TOLERANCE)


def test_a_response_too_short_is_as_if_it_were_not_there():
    session = _session()
    session["P1"] = [session["P1"][0], np.zeros(50, np.float32), session["P1"][1]]
    assert _grader().assess(session).scores == _grader().assess(_session()).scores


def test_a_session_is_bounded():
    grader = _grader()
    with pytest.raises(AudioError, match="40 responses"):
        grader.assess({"P1": [_speech(0.1, 0)] * 40})
    with pytest.raises(AudioError, match="41 s of audio"):
        grader.assess({"P3": [_speech(41, 0)]})
    with pytest.raises(AudioError, match="part 'P2'"):
        grader.assess({"P2": [_speech(1, 0)]})
    for nothing in ({}, {"P1": []}, {"P1": [np.zeros(10, np.float32)]}):
        with pytest.raises(AudioError, match="nothing in this session"):
            grader.assess(nothing)


def test_no_session_is_longer_than_it_says():
    grader = _grader(max_responses=3, max_audio_s=9.0)
    # Every response ends in a window, and a token, that is as far from full as can be.
    session = {"P1": [_speech(0.11, 1)], "P3": [_speech(3.02, 2)], "P4": [_speech(5.87, 3)]}
    assert _by_hand(grader, session, "first")[2] <= grader.config.longest_sequence


def test_a_checkpoint_comes_back(tmp_path):
    whisper, model = samples.write_backbones(tmp_path / "backbones")
    grader = _grader()
    grader.round_halves()
    grader.save(tmp_path / "checkpoint")
    loaded = SessionLLM.load(tmp_path / "checkpoint", encoder=whisper, language_model=model)
    assert loaded.config == grader.config
    found, wanted = loaded.assess(_session()), grader.assess(_session())
    assert found.scores == pytest.approx(wanted.scores, rel=TOLERANCE)
    value = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    value["between"] = "!"
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="tokens of '!'"):
        SessionLLM.load(tmp_path / "checkpoint", encoder=whisper, language_model=model)


def test_projector_adapters_head_and_prior_are_tuned():
    grader = _grader()
    trained = {name for name, p in grader.named_parameters() if p.requires_grad}
    assert trained == set(grader.tuned())
    assert {name.split(".")[0] for name in trained} == {"speech", "prior"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": []}, "parts"),
        ({"missing_ids": []}, "missing_ids"),
        ({"between_ids": [100]}, "vocabulary"),
        ({"prior": {"position": "middle"}}, "prior.position"),
        ({"prior": {"levels": [3.0, 2.0]}}, "prior.levels"),
        ({"prior": {"share": 1.5}}, "prior.share"),
        ({"max_audio_s": 0}, "max_audio_s"),
        ({"max_audio_s": 600.0}, "do not fit"),
        ({"max_responses": 0}, "max_responses"),
        ({"speech": 3}, "speech"),
        ({"grader": "speech_llm"}, "grader"),
        ({"format_revision": 2}, "format_revision"),
        ({"loudness": 1}, "unknown"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(change, message):
    value = json.loads(json.dumps(_config().to_dict()))
    assert SessionConfig.from_dict(value) == _config()
    with pytest.raises(CheckpointError, match=message):
        SessionConfig.from_dict({**value, **change})


def test_aspects_must_be_the_parts_and_overall():
    config = _config()
    speech = dataclasses.replace(config.speech, aspects=config.speech.aspects[::-1])
    value = dataclasses.replace(config, speech=speech).to_dict()
    with pytest.raises(CheckpointError, match="aspects"):
        SessionConfig.from_dict(json.loads(json.dumps(value)))
