"""The native backend against the PyTorch reference, and what it says of damaged files."""

from __future__ import annotations

import json
import platform
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from other_isa import run_with_isa
from safetensors.numpy import load_file, save, save_file

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.bundle import Bundle
from asa_engine.errors import BackendError, CheckpointError
from asa_engine.graders.acoustic.backends.native import NativeBackend, WhisperEncoder
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.graders.aspects import AspectConfig
from asa_engine.kernels import reference
from asa_engine.nn.config import WhisperEncoderConfig

CONFIG = WhisperEncoderConfig(n_mels=80, d_model=48, layers=2, heads=3, ffn=96, positions=200)
# Relative to the reference's frames: rounding alone at fp32; the bounds the precisions declare.
TOLERANCE = {"fp32": 1e-5, "bf16": 1.1e-2, "int8": 2e-2}

State = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grader with random weights."""
    torch.manual_seed(0)
    config = AcousticConfig(
        aspects=(AspectConfig("fluency"), AspectConfig("total")), encoder=CONFIG
    )
    grader = AcousticGrader(config)
    with torch.no_grad():
        grader.layer_mix.copy_(torch.randn(CONFIG.layers + 1))
    for parameter in grader.encoder.parameters():  # stored as float16
        parameter.data = parameter.data.half().float()
    folder = tmp_path_factory.mktemp("native") / "checkpoint"
    grader.save(folder)
    return folder


def mel_of(frames: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).uniform(-1, 1.5, (80, frames)).astype(np.float32)


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("frames", [1, 2, 37, 400])
def test_agrees_with_the_reference(checkpoint: Path, precision: str, frames: int) -> None:
    grader = AcousticGrader.load(checkpoint)
    backend = NativeBackend.open(Bundle.open(checkpoint), precision=precision, threads=2)
    mel = mel_of(frames)
    with torch.inference_mode():
        expected_frames, expected_stats = grader.encode_window(torch.from_numpy(mel)[None])
        expected = grader.head(expected_stats)
    encoded = backend.encode(mel, frames=True)
    assert encoded.frames is not None
    error = np.linalg.norm(encoded.frames - expected_frames[0].numpy())
    assert error < TOLERANCE[precision] * np.linalg.norm(expected_frames.numpy())
    assert encoded.stats.shape == expected_stats[0].shape
    head = backend.head(expected_stats[0].numpy())
    np.testing.assert_allclose(head.scores, expected.scores[0].numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        head.prior, expected.prior_probabilities[0].numpy(), rtol=0, atol=1e-6
    )


def test_frames_only_when_asked_for(checkpoint: Path) -> None:
    backend = NativeBackend.open(Bundle.open(checkpoint), precision="fp32", threads=1)
    assert backend.encode(mel_of(20)).frames is None


def test_precision_it_does_not_run_at(checkpoint: Path) -> None:
    with pytest.raises(BackendError, match="native runs at fp32, bf16, int8, not int4"):
        NativeBackend.open(Bundle.open(checkpoint), precision="int4", threads=1)


@pytest.fixture
def whisper(checkpoint: Path, tmp_path: Path) -> Path:
    """The grader's encoder as a Hugging Face Whisper folder, with a decoder's tensor beside it."""
    tensors = Tensors(checkpoint / "weights.safetensors")
    state: State = {
        f"model.{name}": tensors.read(name, tensors.shape(name))
        for name in tensors.names()
        if name.startswith("encoder.")
    }
    state["model.decoder.layer_norm.weight"] = np.ones(3, np.float32)
    fields = {
        "num_mel_bins": CONFIG.n_mels,
        "d_model": CONFIG.d_model,
        "encoder_layers": CONFIG.layers,
        "encoder_attention_heads": CONFIG.heads,
        "encoder_ffn_dim": CONFIG.ffn,
        "max_source_positions": CONFIG.positions,
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("precision", TOLERANCE)
def test_whisper_folder(whisper: Path, precision: str) -> None:
    state = load_file(whisper / "model.safetensors")
    tensors = {name.removeprefix("model.encoder."): value for name, value in state.items()}
    mel = mel_of(123)
    expected = reference.encode(CONFIG, tensors, mel)[-1]
    found = WhisperEncoder.load(whisper, precision=precision, threads=2).encode(mel)
    assert found.shape == (62, CONFIG.d_model)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < TOLERANCE[precision]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights(whisper: Path, dtype: str) -> None:
    """The grader's weights are float16 values; bfloat16 rounds them."""
    state = load_file(whisper / "model.safetensors")
    rounded = {n: torch.from_numpy(v).to(getattr(torch, dtype)) for n, v in state.items()}
    from safetensors.torch import save_file as save_torch_file

    save_torch_file(rounded, whisper / "model.safetensors")
    values = {n.removeprefix("model.encoder."): v.float().numpy() for n, v in rounded.items()}
    mel = mel_of(50)
    expected = reference.encode(CONFIG, values, mel)[-1]
    found = WhisperEncoder.load(whisper, precision="fp32").encode(mel)
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


def drop(state: State) -> None:
    del state["model.encoder.layers.1.fc1.bias"]


def add(state: State) -> None:
    state["model.encoder.layers.2.fc1.bias"] = np.zeros(96, np.float32)


def reshape(state: State) -> None:
    state["model.encoder.conv1.weight"] = state["model.encoder.conv1.weight"].reshape(80, 48, 3)


def poison(state: State) -> None:
    state["model.encoder.layers.0.fc2.weight"][3, 4] = np.nan


def retype(state: State) -> None:
    name = "model.encoder.layer_norm.bias"
    state[name] = state[name].astype(np.float64)  # type: ignore[assignment]


def strip(state: State) -> None:
    for name in [name for name in state if "encoder" in name]:
        del state[name]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"lacks model.encoder.layers.1.fc1.bias"),
        (add, r"unknown model.encoder.layers.2.fc1.bias"),
        (reshape, r"conv1.weight is \[80, 48, 3\], not \[48, 80, 3\]"),
        (poison, r"fc2.weight holds NaN"),
        (retype, r"'F64'"),
        (strip, r"no Whisper encoder"),
    ],
)
def test_tensors_that_do_not_fit(
    whisper: Path, damage: Callable[[State], None], message: str
) -> None:
    state = load_file(whisper / "model.safetensors")
    damage(state)
    save_file(state, whisper / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        WhisperEncoder.load(whisper, precision="fp32")


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (np.zeros((80, 0), np.float32), "0 frames"),
        (np.zeros((80, 401), np.float32), "401 frames"),
        (np.zeros((80, 1_000_000), np.float32), "1000000 frames"),
        (np.zeros((79, 10), np.float32), "79 bins"),
        (np.zeros((80, 10)), "float64"),
        (np.zeros((80, 10), ">f4"), "float32"),
        (np.zeros((80, 10), object), "object"),
        (np.zeros((1, 80, 10), np.float32), r"\[1, 80, 10\]"),
        (np.zeros(80, np.float32), r"\[80\]"),
        (np.full((80, 10), np.nan, np.float32), "finite"),
        (np.full((80, 10), np.inf, np.float32), "finite"),
        (None, "object"),
        ("mel", "U3"),
    ],
)
def test_what_a_whisper_encoder_refuses(
    whisper: Path, mel: NDArray[np.float32], message: str
) -> None:
    encoder = WhisperEncoder.load(whisper, precision="bf16")
    with pytest.raises(ValueError, match=message):
        encoder.encode(mel)
    assert encoder.encode(mel_of(3)).shape == (2, CONFIG.d_model)  # no worse for it


@pytest.mark.parametrize("frames", [1, 2, 3, 399, 400])
def test_any_length_and_layout(whisper: Path, frames: int) -> None:
    encoder = WhisperEncoder.load(whisper, precision="fp32", threads=2)
    mel = mel_of(400)[:, :frames]
    expected = encoder.encode(mel.copy())
    assert expected.shape == ((frames + 1) // 2, CONFIG.d_model)
    padded = np.zeros((80, 2 * frames), np.float32)
    padded[:, ::2] = mel
    for same in (np.asfortranarray(mel), padded[:, ::2], mel[::-1].copy()[::-1]):
        np.testing.assert_array_equal(encoder.encode(same), expected)


@pytest.mark.parametrize("threads", [-1, 0, 257, 10_000])
def test_threads_out_of_range(whisper: Path, threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads is {threads}; it must be in"):
        WhisperEncoder.load(whisper, threads=threads)


def test_two_threads_calling_one_whisper_encoder(whisper: Path) -> None:
    encoder = WhisperEncoder.load(whisper, precision="int8", threads=2)
    mels = [mel_of(frames) for frames in (301, 40)]
    expected = [encoder.encode(mel) for mel in mels]
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda i: encoder.encode(mels[i % 2]), range(60)))
    for index, frames in enumerate(found):
        np.testing.assert_array_equal(frames, expected[index % 2])


@pytest.mark.parametrize("isa", ["neon" if platform.machine() == "x86_64" else "avx2", "mmx"])
def test_an_instruction_set_this_cpu_lacks(whisper: Path, isa: str) -> None:
    """The choice is made once a process."""
    code = (
        "import sys\n"
        "from asa_engine.graders.acoustic.backends.native import WhisperEncoder\n"
        "from asa_engine.runtimes import runtime\n"
        "from asa_engine.errors import BackendError\n"
        "assert not runtime('native').availability().usable\n"
        "try:\n"
        "    WhisperEncoder.load(sys.argv[1])\n"
        "except BackendError as error:\n"
        "    print(error)\n"
    )
    done = run_with_isa(isa, "-c", code, str(whisper))
    assert done.returncode == 0, done.stderr
    assert f'the instruction set "{isa}" is not to be had on this CPU' in done.stdout


@pytest.mark.parametrize("value", [None, 0, -3, 2.5, "six", True, 10**9])
def test_config_that_makes_no_sense(whisper: Path, value: object) -> None:
    fields = json.loads((whisper / "config.json").read_text())
    fields["encoder_layers"] = value
    (whisper / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match="encoder_layers"):
        WhisperEncoder.load(whisper)


def test_heads_that_do_not_divide_the_width(whisper: Path) -> None:
    fields = json.loads((whisper / "config.json").read_text())
    (whisper / "config.json").write_text(json.dumps({**fields, "encoder_attention_heads": 5}))
    with pytest.raises((CheckpointError, ValueError)):
        WhisperEncoder.load(whisper)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 20) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 2) + b"\xff\xff",
        struct.pack("<Q", 2) + b"{}left over",
        struct.pack("<Q", 5003) + b"[" + b"9" * 5001 + b"]",
    ],
)
def test_files_that_are_not_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Tensors(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tensors(tmp_path / "model.safetensors")


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_header_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("header") / "a.safetensors"
    tensors = {"a": np.ones((2, 3), np.float32), "b": np.zeros(5, np.float16)}
    content = bytearray(save(tensors))
    header = 8 + struct.unpack("<Q", content[:8])[0]
    content[at % header] = value
    path.write_bytes(content)
    try:
        found = Tensors(path)
    except CheckpointError:
        return
    for name in found.names():
        assert found.read(name, found.shape(name)).size in (5, 6)
