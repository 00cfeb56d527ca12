"""The fused log-mel against NumPy in float64 and against Hugging Face's extractor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from other_isa import run_with_isa

from asa_engine import kernels
from asa_engine.kernels import reference

# float32 rounding of a frame's loudest bins reaches its quietest ones, 80 dB down; Hugging Face's
# own torch and NumPy paths differ by as much.
TOLERANCE = 1e-4


def speech_like(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Return noise bursts over harmonics: loud and near-silent frames, all bins in use."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / 16_000
    voice = sum(np.sin(2 * np.pi * 140 * k * t + k) / k for k in range(1, 20))
    loudness = 0.1 * (np.sin(2 * np.pi * 1.3 * t) > -0.3) + 1e-4
    audio = loudness * (voice + 0.3 * rng.standard_normal(n))
    return np.asarray(audio, dtype=np.float32)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("n", [201, 319, 320, 400, 1599, 16_000, 64_000, 100_007, 480_000])
def test_agrees_with_reference(n: int, n_mels: int) -> None:
    samples = speech_like(n)
    mel = kernels.log_mel(samples, n_mels)
    assert mel.dtype == np.float32
    assert mel.shape == (n_mels, n // 160)
    np.testing.assert_allclose(mel, reference.log_mel(samples, n_mels), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("n", [400, 16_000, 64_001])
def test_agrees_with_hugging_face(n: int, n_mels: int) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'bench'")
    samples = speech_like(n, seed=1)
    extractor = transformers.WhisperFeatureExtractor(feature_size=n_mels)
    expected = extractor._np_extract_fbank_features(samples[None], "cpu")[0]
    np.testing.assert_allclose(kernels.log_mel(samples, n_mels), expected, rtol=0, atol=TOLERANCE)


def test_silence_is_the_clamp() -> None:
    mel = kernels.log_mel(np.zeros(16_000, np.float32))
    np.testing.assert_allclose(mel, (np.log10(1e-10) + 4) / 4, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(201, 20_000),
    cuts=st.lists(st.integers(0, 20_000), max_size=40),
    n_mels=st.sampled_from([80, 128]),
)
def test_pieces_do_not_matter(n: int, cuts: list[int], n_mels: int) -> None:
    samples = speech_like(n, seed=2)
    window = kernels.LogMel(n_mels, 20_000)
    for piece in np.split(samples, sorted(min(cut, n) for cut in cuts)):
        window.push(piece)
    np.testing.assert_array_equal(window.close(), kernels.log_mel(samples, n_mels))


def test_windows_follow_each_other() -> None:
    window = kernels.LogMel(80, 6_000)
    for seed in range(3):
        samples = speech_like(5_000 + seed, seed)
        window.push(samples)
        assert window.room == 1_000 - seed
        np.testing.assert_array_equal(window.close(), kernels.log_mel(samples))
    assert window.samples == 0


def test_refused_push_changes_nothing() -> None:
    samples = speech_like(2_000)
    window = kernels.LogMel(80, 2_000)
    window.push(samples[:1_000])
    with pytest.raises(ValueError, match="room for 1000"):
        window.push(samples)
    with pytest.raises(ValueError, match="finite"):
        window.push(np.full(10, np.nan, np.float32))
    window.push(samples[1_000:])
    np.testing.assert_array_equal(window.close(), kernels.log_mel(samples))


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(200, np.float32),
        np.zeros(0, np.float32),
        np.zeros(16_000),
        np.zeros(16_000, np.int16),
        np.zeros((2, 16_000), np.float32),
        np.float32(1),
        np.full(16_000, np.inf, np.float32),
        np.full(16_000, np.nan, np.float32),
    ],
    ids=["too short", "empty", "float64", "int16", "stereo", "scalar", "infinite", "nan"],
)
def test_bad_samples(samples: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="samples"):
        kernels.log_mel(samples)


@pytest.mark.parametrize("n_mels", [-1, 0, 129])
def test_bad_mels(n_mels: int) -> None:
    with pytest.raises(ValueError, match="n_mels"):
        kernels.log_mel(np.zeros(16_000, np.float32), n_mels)


@pytest.mark.parametrize("window_samples", [-1, 0, 200, 2**40])
def test_bad_window(window_samples: int) -> None:
    with pytest.raises(ValueError, match="window"):
        kernels.LogMel(80, window_samples)


def test_non_contiguous_samples() -> None:
    samples = speech_like(32_000)
    np.testing.assert_array_equal(
        kernels.log_mel(samples[::2]), kernels.log_mel(samples[::2].copy())
    )


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_every_isa(isa: str) -> None:
    code = (
        "import numpy as np\n"
        "from asa_engine import kernels\n"
        "from asa_engine.kernels import reference\n"
        "samples = (np.random.default_rng(3).standard_normal(20_000) / 8).astype(np.float32)\n"
        "error = np.abs(kernels.log_mel(samples) - reference.log_mel(samples)).max()\n"
        f"assert error < {TOLERANCE}, error\n"
        "print(kernels.isa())\n"
    )
    done = run_with_isa(isa, "-c", code)
    assert done.stdout.strip() == isa, done.stderr


def test_an_isa_the_cpu_lacks_is_an_error() -> None:
    done = run_with_isa("mmx", "-c", "from asa_engine import kernels; kernels.isa()")
    assert done.returncode == 1
    assert 'BackendError: ASA_CPU_ISA: the instruction set "mmx"' in done.stderr
