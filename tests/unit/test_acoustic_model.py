"""The acoustic reference: encoder, additive pooling, checkpoints and their validation."""

from __future__ import annotations

import copy
import dataclasses
import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from asa_engine.errors import AudioError, CheckpointError, UsageError
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.graders.aspects import AspectConfig
from asa_engine.nn.config import WhisperEncoderConfig
from asa_engine.nn.ct2 import read_ct2_variables
from asa_engine.nn.weights import load_whisper_encoder
from asa_engine.nn.whisper import WhisperEncoder

TINY = WhisperEncoderConfig(n_mels=80, d_model=16, layers=2, heads=2, ffn=32, positions=50)
CONFIG = AcousticConfig(
    aspects=(AspectConfig("accuracy", sd=((2.0, 1.0), (4.0, 0.5))), AspectConfig("total")),
    encoder=TINY,
    window_s=1.0,
    attention_heads=2,
)


@pytest.fixture
def grader() -> AcousticGrader:
    torch.manual_seed(1)
    return AcousticGrader(CONFIG).eval()


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(2).normal(0, 0.1, 40_000).astype(np.float32)


@torch.inference_mode()
def test_encoder_matches_hugging_face():
    whisper = pytest.importorskip("transformers.models.whisper.modeling_whisper")
    configuration = pytest.importorskip(
        "transformers", reason="needs the extra 'bench'"
    ).WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=80,
        max_source_positions=50,
    )
    torch.manual_seed(4)
    peer = whisper.WhisperEncoder(configuration).eval()
    ours = WhisperEncoder(TINY).eval()
    ours.load_state_dict(peer.state_dict())
    mel = torch.randn(2, 80, 100)
    wanted = peer(mel, output_hidden_states=True).hidden_states
    for mine, theirs in zip(ours(mel), wanted, strict=True):
        # the same float32 operations; only the order of sums may differ
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("lengths", [[100, 61, 2], [1, 100, 99]])
def test_padding_in_a_batch_changes_nothing(grader, lengths):
    mel = torch.randn(3, 80, 100, generator=torch.Generator().manual_seed(3))
    frames, stats = grader.encode_window(mel, torch.tensor(lengths))
    for i, length in enumerate(lengths):
        alone, alone_stats = grader.encode_window(mel[i : i + 1, :, :length])
        valid = (length + 1) // 2
        # masked and unmasked attention may sum in another order
        torch.testing.assert_close(frames[i, :valid], alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(stats[i], alone_stats[0], atol=1e-4, rtol=1e-5)


@torch.inference_mode()
def test_statistics_are_the_sums_they_claim_and_add_up(grader):
    frames = torch.randn(1, 30, 16, generator=torch.Generator().manual_seed(5))
    x = frames[0].double().numpy()
    logits = x @ grader.attention.weight.double().numpy().T + grader.attention.bias.numpy()
    weights = np.exp(4 * np.tanh(logits / 4))
    wanted = np.concatenate(
        ([30], x.sum(0), (x**2).sum(0), weights.sum(0), (weights.T @ x).ravel())
    )
    found = grader.pool(frames)[0].numpy()
    assert len(found) == CONFIG.stats_width
    # float32 sums of 30 terms of size up to ten
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
    parts = grader.pool(frames[:, :11]) + grader.pool(frames[:, 11:])
    np.testing.assert_allclose(parts[0].numpy(), wanted, rtol=1e-5, atol=1e-4)


@torch.inference_mode()
def test_head_sees_means_not_amounts(grader):
    stats = grader.pool(torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(6)))
    once, twice = grader.head(stats * 60), grader.head(stats * 120)
    # beyond the longest speech of training the duration counts no further, so only means are left
    torch.testing.assert_close(once.scores, twice.scores, atol=1e-4, rtol=0)
    assert once.prior_probabilities.sum().item() == pytest.approx(1, abs=1e-6)
    assert once.scores.shape == (1, 2)
    assert once.prior_probabilities.shape == (1, 8)


@pytest.fixture
def with_kernel() -> AcousticGrader:
    torch.manual_seed(1)
    config = dataclasses.replace(CONFIG, kernel_centres=7, kernel_width=5)
    grader = AcousticGrader(config).eval()
    for name, value in grader.named_buffers():
        if name.startswith("kernel_"):
            value.normal_(0, 0.3)
    grader.kernel_projection.mul_(0.1)
    grader.round_halves()
    grader.blend.copy_(torch.tensor([0.25, 1.0]))
    return grader


@torch.inference_mode()
def test_the_kernel_is_the_formula_it_claims(grader, with_kernel):
    mel = torch.randn(1, 80, 90, generator=torch.Generator().manual_seed(9))
    shared = grader.state_dict().keys()
    grader.load_state_dict({k: v for k, v in with_kernel.state_dict().items() if k in shared})
    _, stats = with_kernel.encode_window(mel)
    plain = grader.encode_window(mel)[1]
    assert stats.shape[1] == with_kernel.config.stats_width == plain.shape[1] + 2 * 3 * 16
    torch.testing.assert_close(stats[:, : plain.shape[1]], plain, atol=0, rtol=0)

    layers = [layer[0].double().numpy() for layer in with_kernel.encoder(mel)]
    profile = np.concatenate(
        [layer.mean(0) for layer in layers]
        + [np.sqrt(np.maximum(layer.var(0), 1e-5)) for layer in layers]
    )
    b = {name: value.double().numpy() for name, value in with_kernel.named_buffers()}
    place = b["kernel_projection"] @ profile + b["kernel_bias"]
    place = np.append(place, -2 * b["kernel_duration"])  # log(45 / 175) / 0.5, held at -2
    near = np.exp(-((place - b["kernel_centres"]) ** 2).sum(1))
    kernel = b["kernel_weights"] @ near + b["kernel_mean"]
    network = grader.head(plain).scores[0].double().numpy()
    wanted = b["blend"] * network + (1 - b["blend"]) * kernel
    found = with_kernel.head(stats).scores[0].numpy()
    # float32 variances of values near one, as differences of means of squares
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_a_saved_kernel_scores_the_same(with_kernel, samples, tmp_path):
    with_kernel.save(tmp_path / "k")
    stored = load_file(tmp_path / "k" / "weights.safetensors")
    assert stored["kernel_projection"].dtype == torch.float16
    np.testing.assert_array_equal(
        AcousticGrader.load(tmp_path / "k").assess_samples(samples).scores,
        with_kernel.assess_samples(samples).scores,
    )


def test_assess_samples_sums_windows_and_clips(grader, samples):
    result = grader.assess_samples(samples)
    assert result.stats[0] == 125  # 2.5 s at 50 frames a second
    assert np.isfinite(result.scores).all()
    with torch.no_grad():
        grader.score_mean.fill_(1000.0)
    np.testing.assert_array_equal(grader.assess_samples(samples).scores, [10, 10])


def test_the_paper_form_pads_to_the_window(samples):
    config = AcousticConfig.from_dict({**CONFIG.to_dict(), "window_padding": "full"})
    torch.manual_seed(1)
    result = AcousticGrader(config).eval().assess_samples(samples)
    assert result.stats[0] == 150  # three whole windows


def test_too_little_audio_is_refused(grader):
    with pytest.raises(AudioError, match="too short"):
        grader.assess_samples(np.zeros(100, np.float32))


def test_a_saved_checkpoint_scores_the_same(grader, samples, tmp_path):
    grader.round_halves()
    before = grader.assess_samples(samples)
    grader.save(tmp_path / "checkpoint", extra={"report.json": "{}"})
    again = AcousticGrader.load(tmp_path / "checkpoint")
    assert again.config == CONFIG
    after = again.assess_samples(samples)
    np.testing.assert_array_equal(before.scores, after.scores)
    stored = load_file(tmp_path / "checkpoint" / "weights.safetensors")
    assert {str(v.dtype) for k, v in stored.items() if k.startswith("encoder.")} == {
        "torch.float16"
    }
    assert (tmp_path / "checkpoint" / "report.json").read_text() == "{}"
    with pytest.raises(UsageError, match="exists already"):
        grader.save(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("head_fc1.bias"), "lacks head_fc1.bias"),
        (lambda s: s.update(more=torch.zeros(1)), "unknown more"),
        (lambda s: s.update({"head_fc2.bias": torch.zeros(3)}), r"is \[3\], not \[2\]"),
        (lambda s: s["head_fc2.bias"].fill_(float("nan")), "NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(grader, tmp_path, damage, message):
    grader.save(tmp_path / "c")
    state = load_file(tmp_path / "c" / "weights.safetensors")
    damage(state)
    save_file(state, tmp_path / "c" / "weights.safetensors")
    with pytest.raises(CheckpointError, match=message):
        AcousticGrader.load(tmp_path / "c")


def test_a_cut_off_weights_file_is_refused(grader, tmp_path):
    grader.save(tmp_path / "c")
    path = tmp_path / "c" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        AcousticGrader.load(tmp_path / "c")


def test_config_survives_json():
    assert AcousticConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


def _set(path, value):
    def change(config):
        *parents, last = path
        for key in parents:
            config = config[key]
        config[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(["grader"], "text"), "grader 'text'"),
        (_set(["format_revision"], 2), "format_revision"),
        (_set(["colour"], 1), "unknown fields: 'colour'"),
        (_set(["aspects"], []), "aspects"),
        (_set(["aspects", 1, "name"], "accuracy"), "different names"),
        (_set(["aspects", 0, "scale_max"], -1), "scale_max"),
        (_set(["aspects", 0, "sd"], [[1, 2, 3]]), "sd"),
        (_set(["aspects", 0, "level_cuts"], [3, 2]), "ascending"),
        (_set(["encoder", "heads"], 3), "divisor"),
        (_set(["encoder", "d_model"], 10**9), "encoder.d_model"),
        (_set(["encoder", "layers"], True), "encoder.layers"),
        (_set(["window_s"], float("nan")), "window_s"),
        (_set(["window_s"], 2.0), "encoder.positions"),
        (_set(["window_s"], 0.333), "multiple"),
        (_set(["window_padding"], "some"), "window_padding"),
        (_set(["min_window_s"], 3), "min_window_s"),
        (_set(["prior_levels"], [1]), "prior_levels"),
        (_set(["kernel_centres"], -1), "kernel_centres"),
        (_set(["kernel_width"], 0), "kernel_width"),
    ],
)
def test_a_wrong_config_names_the_field(change, message):
    config = copy.deepcopy(json.loads(json.dumps(CONFIG.to_dict())))
    change(config)
    with pytest.raises(CheckpointError, match=message):
        AcousticConfig.from_dict(config)


def test_levels_and_expected_error():
    aspect = CONFIG.aspects[0]
    assert [aspect.level_of(v) for v in (0.0, 0.49, 0.5, 7.6, 10.0)] == ["0", "0", "1", "8", "10"]
    assert [aspect.sd_at(t) for t in (1, 2, 3, 4, 60)] == [1.0, 1.0, 0.75, 0.5, 0.5]
    assert CONFIG.aspects[1].sd_at(3) is None


def _ct2_file(variables: dict[str, np.ndarray], spec: str = "WhisperSpec") -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    types = {"float32": 0, "int16": 2, "float16": 4}
    out = struct.pack("<I", 6) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        out += (
            text(name)
            + struct.pack("<B", value.ndim)
            + struct.pack(f"<{value.ndim}I", *value.shape)
        )
        out += struct.pack("<BI", types[value.dtype.name], value.nbytes) + value.tobytes()
    return out + struct.pack("<I", 0)


def _as_ct2(encoder: WhisperEncoder) -> dict[str, np.ndarray]:
    """Rename and fuse by hand, the other way round than the loader."""
    s = {k: v.detach().numpy().astype(np.float16) for k, v in encoder.state_dict().items()}
    out = {
        "encoder/conv1/weight": s["conv1.weight"],
        "encoder/conv1/bias": s["conv1.bias"],
        "encoder/conv2/weight": s["conv2.weight"],
        "encoder/conv2/bias": s["conv2.bias"],
        "encoder/position_encodings/encodings": s["embed_positions.weight"],
        "encoder/layer_norm/gamma": s["layer_norm.weight"],
        "encoder/layer_norm/beta": s["layer_norm.bias"],
        "encoder/num_heads": np.array(2, np.int16),
    }
    for i in range(2):
        ours, theirs = f"layers.{i}.", f"encoder/layer_{i}/"
        zero = np.zeros(16, np.float16)
        qkv = [s[f"{ours}self_attn.{n}_proj.weight"] for n in "qkv"]
        bias = [s[f"{ours}self_attn.q_proj.bias"], zero, s[f"{ours}self_attn.v_proj.bias"]]
        out[theirs + "self_attention/linear_0/weight"] = np.concatenate(qkv)
        out[theirs + "self_attention/linear_0/bias"] = np.concatenate(bias)
        for a, b in (
            ("self_attn.out_proj", "self_attention/linear_1"),
            ("fc1", "ffn/linear_0"),
            ("fc2", "ffn/linear_1"),
        ):
            out[f"{theirs}{b}/weight"] = s[f"{ours}{a}.weight"]
            out[f"{theirs}{b}/bias"] = s[f"{ours}{a}.bias"]
        for a, b in (
            ("self_attn_layer_norm", "self_attention/layer_norm"),
            ("final_layer_norm", "ffn/layer_norm"),
        ):
            out[f"{theirs}{b}/gamma"] = s[f"{ours}{a}.weight"]
            out[f"{theirs}{b}/beta"] = s[f"{ours}{a}.bias"]
    return out


def test_ct2_and_hugging_face_folders_give_one_encoder(tmp_path):
    torch.manual_seed(8)
    source = WhisperEncoder(TINY)
    for name in ("ct2", "hf"):
        (tmp_path / name).mkdir()
    (tmp_path / "ct2" / "model.bin").write_bytes(_ct2_file(_as_ct2(source)))
    state = {f"model.encoder.{k}": v.half() for k, v in source.state_dict().items()}
    save_file(state, tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text('{"encoder_attention_heads": 2}')
    a = load_whisper_encoder(tmp_path / "ct2").state_dict()
    b = load_whisper_encoder(tmp_path / "hf").state_dict()
    assert a.keys() == source.state_dict().keys()
    for name, value in a.items():
        assert torch.equal(value, source.state_dict()[name].half().float()), name
        assert torch.equal(value, b[name]), name
    assert load_whisper_encoder(tmp_path / "ct2", positions=20).config.positions == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:2000], "ends early"),
        (lambda raw: b"\7" + raw[1:], "format version 7"),
        (lambda raw: b"", "0 bytes"),
        (lambda raw: b"not a model at all, just text", "format version"),
        (lambda raw: raw.replace(b"conv1/bias", b"conv9/bias"), "lacks encoder/conv1/bias"),
        (lambda raw: raw.replace(b"WhisperSpec", b"WespersSpec"), "WespersSpec, not Whisper"),
    ],
)
def test_a_damaged_ct2_model_is_refused(tmp_path, change, message):
    (tmp_path / "model.bin").write_bytes(change(_ct2_file(_as_ct2(WhisperEncoder(TINY)))))
    with pytest.raises(CheckpointError, match=message):
        load_whisper_encoder(tmp_path)


def test_ct2_sizes_that_lie_are_refused(tmp_path):
    raw = bytearray(_ct2_file({"encoder/x": np.zeros((2, 3), np.float32)}))
    at = raw.index(struct.pack("<II", 2, 3))
    raw[at : at + 8] = struct.pack("<II", 2**31, 2**31)
    (tmp_path / "model.bin").write_bytes(raw)
    with pytest.raises(CheckpointError, match="its shape is"):
        read_ct2_variables(tmp_path / "model.bin")


def test_nothing_to_load_is_said_plainly(tmp_path):
    with pytest.raises(CheckpointError, match="neither"):
        load_whisper_encoder(tmp_path)
    with pytest.raises(CheckpointError, match="not installed"):
        load_whisper_encoder("package:no_such_package_here")
