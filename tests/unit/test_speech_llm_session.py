"""The session grader's reference on tiny random backbones of the real classes."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import session_samples as sessions
import speech_llm_samples as samples
import torch
from audio_samples import sound
from session_samples import PARTS

from asa_engine.errors import AudioError, CheckpointError
from asa_engine.graders.lm.prompt import encode_template
from asa_engine.graders.speech_llm_session.config import (
    SessionConfig,
)
from asa_engine.graders.speech_llm_session.model import SessionLLM
from asa_engine.nn.lora import merge_lora

# float32 through a few layers of width 32; sums run in another order.
TOLERANCE = 2e-5


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
    grader = sessions.plain_grader(position)
    said, share, length = _by_hand(grader, sessions.session(), position)
    found = grader.assess(sessions.session())
    np.testing.assert_allclose(found.prior_probabilities, share, rtol=TOLERANCE)
    held = np.clip(said, 0, 10)
    np.testing.assert_allclose([found.scores[p] for p in PARTS], held[:4], rtol=TOLERANCE)
    assert found.scores["overall"] == pytest.approx(held[:4].mean(), rel=TOLERANCE)
    assert found.predicted_overall == pytest.approx(said[4], rel=TOLERANCE)
    assert found.missing == ()
    assert length <= grader.config.longest_sequence


def test_the_place_of_the_prior_matters():
    first, last = (sessions.plain_grader(position) for position in ("first", "last"))
    assert first.assess(sessions.session()) != last.assess(sessions.session())


def test_the_prior_may_have_a_share_in_the_scores():
    grader = sessions.plain_grader()
    said = grader.assess(sessions.session())
    prior = dataclasses.replace(grader.config.prior, share=0.25)
    grader.config = dataclasses.replace(grader.config, prior=prior)
    level = float(said.prior_probabilities @ np.array([2.0, 3.0, 4.5]))
    found = grader.assess(sessions.session()).scores
    unheld, _, _ = _by_hand(grader, sessions.session(), "first")
    expected = np.clip(0.75 * unheld[:4] + 0.25 * level, 0, 10)
    np.testing.assert_allclose([found[p] for p in PARTS], expected, rtol=TOLERANCE)


def test_the_prior_reaches_the_scores():
    grader, other = sessions.plain_grader(), sessions.plain_grader()
    with torch.no_grad():
        other.prior.fc2.bias.add_(torch.tensor([0.0, 0.0, 9.0]))
    assert grader.assess(sessions.session()).predicted_overall != pytest.approx(
        other.assess(sessions.session()).predicted_overall, rel=1e-3
    )


@pytest.mark.parametrize("lost", [None, [], [np.zeros(50, np.float32)]])
def test_a_missing_part_has_no_score_and_is_told(lost):
    session = sessions.session()
    del session["P3"]
    said, _, _ = _by_hand(sessions.plain_grader(), session, "first")
    if lost is not None:
        session["P3"] = lost
    found = sessions.plain_grader().assess(session)
    assert found.missing == ("P3",)
    assert set(found.scores) == {"P1", "P4", "P5", "overall"}
    held = np.clip(said, 0, 10)[[0, 2, 3]]
    np.testing.assert_allclose([found.scores[p] for p in ("P1", "P4", "P5")], held, rtol=TOLERANCE)
    assert found.scores["overall"] == pytest.approx(held.mean(), rel=TOLERANCE)


def test_a_response_too_short_is_as_if_it_were_not_there():
    session = sessions.session()
    session["P1"] = [session["P1"][0], np.zeros(50, np.float32), session["P1"][1]]
    grader = sessions.plain_grader()
    assert grader.assess(session).scores == grader.assess(sessions.session()).scores


def test_a_session_is_bounded():
    grader = sessions.plain_grader()
    with pytest.raises(AudioError, match="40 responses"):
        grader.assess({"P1": [sound(0.1, 0)] * 40})
    with pytest.raises(AudioError, match="41 s of audio"):
        grader.assess({"P3": [sound(41, 0)]})
    with pytest.raises(AudioError, match="part 'P2'"):
        grader.assess({"P2": [sound(1, 0)]})
    for nothing in ({}, {"P1": []}, {"P1": [np.zeros(10, np.float32)]}):
        with pytest.raises(AudioError, match="nothing in this session"):
            grader.assess(nothing)


def test_no_session_is_longer_than_it_says():
    grader = sessions.plain_grader(max_responses=3, max_audio_s=9.0)
    # Every response ends in a window, and a token, that is as far from full as can be.
    session = {"P1": [sound(0.11, 1)], "P3": [sound(3.02, 2)], "P4": [sound(5.87, 3)]}
    assert _by_hand(grader, session, "first")[2] <= grader.config.longest_sequence


def test_a_checkpoint_comes_back(tmp_path):
    whisper, model = samples.write_backbones(tmp_path / "backbones")
    grader = sessions.plain_grader()
    grader.round_halves()
    grader.save(tmp_path / "checkpoint")
    loaded = SessionLLM.load(tmp_path / "checkpoint", encoder=whisper, language_model=model)
    assert loaded.config == grader.config
    found, wanted = loaded.assess(sessions.session()), grader.assess(sessions.session())
    assert found.scores == pytest.approx(wanted.scores, rel=TOLERANCE)
    value = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    value["between"] = "!"
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="tokens of '!'"):
        SessionLLM.load(tmp_path / "checkpoint", encoder=whisper, language_model=model)


def test_projector_adapters_head_and_prior_are_tuned():
    grader = sessions.plain_grader()
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
    value = json.loads(json.dumps(sessions.config().to_dict()))
    assert SessionConfig.from_dict(value) == sessions.config()
    with pytest.raises(CheckpointError, match=message):
        SessionConfig.from_dict({**value, **change})


def test_aspects_must_be_the_parts_and_overall():
    config = sessions.config()
    speech = dataclasses.replace(config.speech, aspects=config.speech.aspects[::-1])
    value = dataclasses.replace(config, speech=speech).to_dict()
    with pytest.raises(CheckpointError, match="aspects"):
        SessionConfig.from_dict(json.loads(json.dumps(value)))
