"""The speech LLM's reference on tiny random backbones of the real classes."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import speech_llm_samples as samples
import torch
from safetensors.torch import load_file, save_file

from asa_engine.errors import AudioError, CheckpointError
from asa_engine.features.log_mel import WindowedLogMel
from asa_engine.graders.lm.prompt import (
    build_prompt,
)
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.nn.language_model import LanguageModel, load_language_model
from asa_engine.nn.lora import LoraLinear, lora_parameters, merge_lora

# float32 through a few layers of width 32; sums run in another order.
TOLERANCE = 2e-5


def _grader(family="llama", **options):
    model = samples.language_model(family)
    config = samples.config(model, **options)
    torch.manual_seed(1)
    grader = SpeechLLM(config, samples.encoder(), LanguageModel(model)).eval()
    samples.randomise_adapters(grader)
    return grader


def _speech(seconds, seed=2):
    rng = np.random.default_rng(seed)
    envelope = np.repeat(rng.uniform(0.01, 0.5, round(seconds * 20) + 1), 800)
    return (envelope * rng.normal(0, 0.3, envelope.size)).astype(np.float32)[
        : round(seconds * 16_000)
    ]


def _mels(samples_, config):
    cutter = WindowedLogMel(80, config.window_samples, pad_to_window=False,
                            min_samples=config.min_window_samples)  # fmt: skip
    mels = cutter.push(samples_)
    rest = cutter.finish()
    return mels if rest is None else [*mels, rest]


def _project(grader, mel):
    """Encoder and projector, written out for one window."""
    p = grader.projector
    layers = grader.encoder(torch.from_numpy(mel)[None])
    share = torch.softmax(p.layer_mix, 0)
    frames = p.frame_norm(sum(w * h[0] for w, h in zip(share, layers, strict=True)))
    tokens = []
    for start in range(0, len(frames), p.stack):
        group = frames[start : start + p.stack].flatten()
        group = torch.cat((group, torch.zeros(p.fc1.in_features - len(group))))
        tokens.append(p.norm(p.fc2(torch.nn.functional.gelu(p.fc1(group)))))
    return torch.stack(tokens)


def _whole(grader, embeddings):
    """Last hidden state of Hugging Face's own forward over one sequence [n, W]."""
    merged = copy.deepcopy(grader.language_model.decoder)
    merge_lora(merged)
    return merged(inputs_embeds=embeddings[None]).last_hidden_state[0, -1]


@pytest.mark.parametrize("family", sorted(samples.FAMILIES))
@pytest.mark.parametrize("seconds", [0.7, 2.0, 4.2])
@torch.no_grad()
def test_reference_is_the_sum_of_its_parts(family, seconds):
    """Prefix, audio and suffix in one sequence through Hugging Face's own model."""
    grader = _grader(family)
    config = grader.config
    speech = _speech(seconds)
    tokens = torch.cat([_project(grader, mel) for mel in _mels(speech, config)])
    embed = grader.language_model.decoder.embed_tokens
    before = embed(torch.tensor(config.prompt.prefix_ids))
    after = embed(torch.tensor(config.prompt.suffix_ids))
    rows = grader.language_model.output.weight[torch.tensor(config.prompt.label_ids)]
    said = []
    for start in range(0, len(tokens), 15):  # 3 s chunks of 5 tokens a second
        hidden = _whole(grader, torch.cat((before, tokens[start : start + 15], after)))
        said.append(float((rows @ hidden).softmax(0) @ torch.tensor(samples.LABEL_SCORES)))
    found = grader.assess_samples(speech)
    np.testing.assert_allclose(found.chunks[:, 0], said, rtol=TOLERANCE)
    assert found.scores[0] == pytest.approx(np.mean(said), rel=TOLERANCE)
    assert found.probabilities.shape == (len(said), len(samples.LABELS))


def _kernel(grader, mels):
    """The prior's scores of a chunk's windows, written out."""
    p = {name: value.double() for name, value in grader.prior.named_parameters()}
    layers = [torch.stack(grader.encoder(torch.from_numpy(mel)[None]), 1)[0] for mel in mels]
    frames = torch.cat(layers, 1).double()  # [L + 1, T, D]
    profile = torch.cat((frames.mean(1).flatten(), frames.var(1, correction=0).sqrt().flatten()))
    duration = np.clip(2 * np.log(frames.shape[1] / 175), -2, 3.5)
    place = torch.cat((p["projection"] @ profile + p["bias"], p["duration"] * duration))
    near = torch.exp(-((p["centres"] - place) ** 2).sum(1))
    return p["mean"] + p["weights"] @ near


@pytest.mark.parametrize("seconds", [0.7, 4.2])
@torch.no_grad()
def test_the_prior_is_pooled_chunk_by_chunk(seconds):
    grader, plain = _grader(prior=samples.PRIOR), _grader()
    speech, points = _speech(seconds), np.array(samples.LABEL_SCORES)
    mels = _mels(speech, grader.config)
    found, alone = grader.assess_samples(speech), plain.assess_samples(speech)
    assert len(found.chunks) == len(alone.chunks)
    for at, answer in enumerate(alone.probabilities):
        said = float(_kernel(grader, mels[3 * at : 3 * at + 3])[0])
        spread = np.exp(-((points - said) ** 2) / (2 * samples.PRIOR.sd**2))
        expected = 0.6 * answer + 0.4 * spread / spread.sum()
        np.testing.assert_allclose(found.probabilities[at], expected, rtol=TOLERANCE)
        assert found.chunks[at, 0] == pytest.approx(expected @ points, rel=TOLERANCE)


@torch.no_grad()
def test_the_prior_joins_a_regression_and_batches():
    options = {"answer": "regression", "aspects": ("fluency", "total")}
    grader, plain = _grader(prior=samples.PRIOR, **options), _grader(**options)
    speech = [_speech(1.6), _speech(2.3, seed=5)]
    windows = [_mels(item, grader.config) for item in speech]
    mels = [mel for some in windows for mel in some]
    lengths = torch.tensor([(mel.shape[1] + 1) // 2 for mel in mels])
    layers = torch.zeros(len(mels), 3, 50, 16)
    for row, mel in zip(layers, mels, strict=True):
        frames = torch.stack(grader.encoder(torch.from_numpy(mel)[None]), 1)[0]
        row[:, : frames.shape[1]] = frames
    owner = torch.tensor([0] * len(windows[0]) + [1] * len(windows[1]))
    scores = grader.scores(grader(layers, lengths, owner))
    for item, some, row in zip(speech, windows, scores, strict=True):
        expected = 0.6 * plain.assess_samples(item).chunks[0] + 0.4 * _kernel(grader, some).numpy()
        np.testing.assert_allclose(row, expected, rtol=TOLERANCE)
        np.testing.assert_allclose(grader.assess_samples(item).chunks[0], expected, rtol=TOLERANCE)


@torch.no_grad()
def test_units_are_the_nearest_entries():
    grader, plain = _grader(units=12), _grader()
    (mel, *_) = _mels(_speech(1.0), grader.config)
    tokens, entries = plain.window(mel)[0], grader.codebook
    distance = torch.cdist(tokens.double(), entries.double())
    units = grader.units(tokens)
    np.testing.assert_array_equal(units, distance.argmin(1))
    np.testing.assert_array_equal(grader.window(mel)[0], entries[units])
    assert grader.config.bits_a_second == 20.0  # 5 tokens a second, 4 bits each
    with pytest.raises(ValueError, match="no units"):
        plain.units(tokens)


@torch.no_grad()
def test_batches_say_what_each_recording_says_alone():
    grader = _grader()
    windows = [_mels(_speech(s, seed), grader.config) for seed, s in enumerate((2.5, 0.4, 1.0))]
    flat = [(mel, at) for at, some in enumerate(windows) for mel in some]
    layers = [torch.stack(grader.encoder(torch.from_numpy(mel)[None]), 1)[0] for mel, _ in flat]
    longest = max(item.shape[1] for item in layers)
    # What lies beyond a window's frames must not matter.
    padded = torch.full((len(layers), 3, longest, 16), 7.0)
    for row, item in zip(padded, layers, strict=True):
        row[:, : item.shape[1]] = item
    lengths = torch.tensor([item.shape[1] for item in layers])
    answers = grader(padded, lengths, torch.tensor([at for _, at in flat]))
    scores = grader.scores(answers)[:, 0]
    alone = [grader.assess_samples(_speech(s, seed)).chunks[0, 0]
             for seed, s in enumerate((2.5, 0.4, 1.0))]  # fmt: skip
    np.testing.assert_allclose(scores.numpy(), alone, rtol=TOLERANCE)


@torch.no_grad()
def test_a_run_may_stop_at_any_layer():
    grader = _grader()
    tokens = [torch.randn(n, 32, generator=torch.Generator().manual_seed(n)) for n in (3, 9)]
    sequences = grader.sequences(tokens)
    whole = grader.run(sequences, 0, 3, grader.prefix(0, 3))
    below = grader.prefix(0, 1)
    hidden = grader.run(sequences, 0, 1, below)
    parts = grader.run(hidden, 1, 3, grader.prefix(1, 3, below.hidden))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def test_hard_decoding_is_the_likeliest_label():
    hard, soft = _grader(answer="hard"), _grader(answer="soft")
    speech = _speech(1.5)
    likeliest = soft.assess_samples(speech).probabilities[0].argmax()
    assert hard.assess_samples(speech).scores[0] == samples.LABEL_SCORES[likeliest]


@torch.no_grad()
def test_regression_reads_the_last_hidden_state():
    grader = _grader(answer="regression", aspects=("fluency", "total"))
    speech = _speech(0.9)
    tokens = torch.cat([_project(grader, mel) for mel in _mels(speech, grader.config)])
    embed = grader.language_model.decoder.embed_tokens
    before, after = (
        embed(torch.tensor(ids))
        for ids in (grader.config.prompt.prefix_ids, grader.config.prompt.suffix_ids)
    )
    hidden = _whole(grader, torch.cat((before, tokens, after)))
    wanted = 5 + 5 * (grader.head.weight @ hidden + grader.head.bias)
    np.testing.assert_allclose(grader.assess_samples(speech).chunks[0], wanted, rtol=TOLERANCE)


def test_scores_are_held_to_the_scale():
    grader = _grader(answer="regression")
    with torch.no_grad():
        grader.head.bias.fill_(100.0)
    found = grader.assess_samples(_speech(1.0))
    assert found.scores[0] == 10.0
    assert found.chunks[0, 0] > 10.0


def test_a_short_last_chunk_is_left_out_unless_it_is_alone():
    grader = _grader()
    assert len(grader.assess_samples(_speech(3.3)).chunks) == 1
    assert len(grader.assess_samples(_speech(3.6)).chunks) == 2
    assert len(grader.assess_samples(_speech(0.3)).chunks) == 1


def test_audio_that_frames_no_window_is_refused():
    with pytest.raises(AudioError, match="too short"):
        _grader().assess_samples(np.zeros(100, np.float32))


def test_only_projector_adapters_and_head_are_tuned():
    grader = _grader(first_layer=2)
    tuned = grader.tuned()
    assert {name.split(".")[0] for name in tuned} == {"projector", "language_model"}
    layers = {name.split(".")[3] for name in tuned if name.startswith("language_model")}
    assert layers == {"2"}
    trained = {name for name, p in grader.named_parameters() if p.requires_grad}
    assert trained == set(tuned)


@torch.no_grad()
def test_merging_changes_nothing():
    grader = _grader()
    before = grader.assess_samples(_speech(2.2)).chunks
    merge_lora(grader.language_model)
    assert not any(isinstance(m, LoraLinear) for m in grader.modules())
    np.testing.assert_allclose(grader.assess_samples(_speech(2.2)).chunks, before, rtol=TOLERANCE)


def test_adapters_start_without_effect_and_learn():
    layer = torch.nn.Linear(6, 5)
    plain = copy.deepcopy(layer)
    adapted = LoraLinear(layer, rank=2, alpha=6.0)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(adapted(x), plain(x))
    adapted(x).square().sum().backward()
    assert adapted.lora_b.grad.abs().sum() > 0
    assert plain.weight.grad is None
    assert [name for name, _ in lora_parameters(adapted)] == []
    assert adapted.base.weight.grad is None
    with torch.no_grad():
        adapted.lora_b.fill_(0.5)
        wanted = plain(x) + 3.0 * x @ adapted.lora_a.T @ adapted.lora_b.T
        torch.testing.assert_close(adapted(x), wanted, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture
def checkpoint(tmp_path):
    whisper, model = samples.write_backbones(tmp_path / "backbones")
    grader = _grader()
    grader.config = dataclasses.replace(
        grader.config, backbones={"encoder": str(whisper), "language_model": str(model)}
    )
    grader.round_halves()
    grader.save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint", grader


def test_a_checkpoint_comes_back(checkpoint):
    folder, grader = checkpoint
    speech = _speech(2.7)
    loaded = SpeechLLM.load(folder)
    assert loaded.config == grader.config
    np.testing.assert_allclose(
        loaded.assess_samples(speech).chunks, grader.assess_samples(speech).chunks, rtol=TOLERANCE
    )
    stored = load_file(folder / "weights.safetensors")
    assert set(stored) == set(grader.tuned())
    assert stored["projector.fc1.weight"].dtype == torch.float16


def test_a_cut_off_file_is_one_clear_error(checkpoint):
    folder, _ = checkpoint
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cannot be read"):
        SpeechLLM.load(folder)


def test_an_adapter_for_another_backbone_is_refused(checkpoint, tmp_path):
    folder, _ = checkpoint
    other = samples.language_model(layers=4)
    other.save_pretrained(tmp_path / "other")
    samples.tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="wants a backbone of"):
        SpeechLLM.load(folder, language_model=tmp_path / "other")


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape", "nan"])
def test_weights_that_do_not_fit_are_refused(checkpoint, damage):
    folder, _ = checkpoint
    path = folder / "weights.safetensors"
    state = load_file(path)
    if damage == "missing":
        del state["projector.fc1.bias"]
    elif damage == "unknown":
        state["stranger"] = torch.zeros(1)
    elif damage == "shape":
        state["projector.fc1.bias"] = torch.zeros(3)
    else:
        state["projector.fc1.bias"][0] = float("nan")
    save_file(state, path)
    with pytest.raises(CheckpointError, match="weights"):
        SpeechLLM.load(folder)


def test_a_language_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read as a language model"):
        load_language_model(tmp_path)


def test_labels_must_be_single_tokens():
    with pytest.raises(CheckpointError, match=r"'B2' is 2 tokens"):
        build_prompt(samples.tokenizer(), "", "=", ("A", "B2"), (1.0, 2.0))


def test_labels_are_checked_when_a_checkpoint_is_loaded(checkpoint):
    folder, _ = checkpoint
    value = json.loads((folder / "config.json").read_text())
    value["prompt"]["labels"][1] = "two"
    (folder / "config.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="'two' is 3 tokens"):
        SpeechLLM.load(folder)
    value["prompt"]["labels"][1] = "Z"
    (folder / "config.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="not those of this language model"):
        SpeechLLM.load(folder)


def test_configuration_goes_to_json_and_back():
    config = _grader().config
    assert SpeechLLMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": {"centres": 3}}, "prior.width"),
        ({"prior": {"centres": 3, "width": 2, "share": 1.5}}, "prior.share"),
        ({"prior": {"sd": 0}}, "prior.sd"),
        ({"prior": {"centers": 3}}, "centers"),
        ({"units": -1}, "units"),
        ({"stack": 7}, "stack"),
        ({"window_s": 40.0, "chunk_s": 40.0}, "window_s"),
        ({"chunk_s": 2.5}, "chunk_s"),
        ({"chunk_s": 31.0}, "chunk_s"),
        ({"answer": "loud"}, "answer"),
        ({"answer": "regression"}, "prompt.labels"),
        ({"prompt": {"suffix_ids": []}}, "suffix_ids"),
        ({"prompt": {"suffix_ids": [100]}}, "vocabulary"),
        ({"prompt": {"label_ids": [5, 5, 6, 7]}}, "differ"),
        ({"prompt": {"label_scores": [1, 2, 3]}}, "label"),
        ({"prompt": {"labels": ["A"], "label_ids": [3], "label_scores": [1]}}, "labels"),
        ({"language_model": {"positions": 20}}, "do not fit"),
        ({"language_model": {"layers": 10**9}}, "layers"),
        ({"lora": {"first_layer": 3}}, "first_layer"),
        ({"lora": {"targets": []}}, "targets"),
        ({"backbones": {"decoder": "x"}}, "backbones"),
        ({"grader": "text"}, "grader"),
        ({"format_revision": 99}, "format_revision"),
        ({"loudness": 1}, "unknown"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(change, message):
    value = json.loads(json.dumps(_grader().config.to_dict()))
    for name, new in change.items():
        if isinstance(new, dict):
            value[name].update(new)
        else:
            value[name] = new
    with pytest.raises(CheckpointError, match=message):
        SpeechLLMConfig.from_dict(value)
