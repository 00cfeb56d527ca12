"""What graders hear: speech and its surroundings at one level, whatever lies around and on it."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from audio_samples import CHUNKS, RATE_HZ, Samples, cut, db, noise, silence, speech
from hypothesis import given, settings
from hypothesis import strategies as st

import asa_engine as asa
from asa_engine import _kernels
from asa_engine.assessment import Grade, Word
from asa_engine.audio import read_audio
from asa_engine.audio.front import FRAME_S, Kept
from asa_engine.audio.intake import Intake, heard_samples, source_time_s
from asa_engine.audio.vad import FRAME_SAMPLES
from asa_engine.files import sha256_file
from asa_engine.profiling import StageClock
from asa_engine.stream import Stream

LEAD_S = TAIL_S = 10 * FRAME_S
PAUSE_S = 47 * FRAME_S
SPEECH_DBFS = -26.0
# The filter that docs/audio.md describes.
BLOCK, TAPS, CUTOFF_HZ, KAISER_BETA = 2048, 2049, 75.0, 5.9
DELAY = TAPS // 2


@pytest.fixture(scope="module")
def answer() -> Samples:
    return speech(3.0, seed=5)


def take(samples: Samples, sizes: list[int]) -> tuple[Samples, list[Kept]]:
    """Return what a grader hears of samples that come in chunks, and where it lies."""
    intake = Intake(RATE_HZ, front=1)
    heard = [intake.push(chunk) for chunk in cut(samples, sizes)]
    heard.append(intake.close())
    return np.concatenate(heard), list(intake.kept)


def high_passed(samples: Samples) -> np.ndarray:
    """Return a recording behind the filter, as if its first and last samples went on for ever."""
    blocks = -(-(len(samples) + DELAY) // BLOCK)
    end = np.full(blocks * BLOCK - len(samples), samples[-1])
    padded = np.concatenate([np.full(BLOCK, samples[0]), samples, end]).astype(np.float64)
    passed = [
        _kernels.high_pass(padded[at : at + 2 * BLOCK])[0] for at in range(0, blocks * BLOCK, BLOCK)
    ]
    return np.concatenate(passed)[DELAY : DELAY + len(samples)]


def level_dbfs(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-30))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# Exactness


@settings(deadline=None, max_examples=15)
@given(sizes=CHUNKS, seed=st.integers(0, 3), length=st.integers(0, 60_000))
def test_chunking_cannot_matter(sizes: list[int], seed: int, length: int) -> None:
    spoken = speech(1.5, seed=seed)
    samples = np.concatenate([noise(0.7, -65.0, seed=seed), spoken, silence(2.0), spoken])
    samples = samples[: 30_000 + length]
    heard, kept = take(samples, sizes)
    whole, at = take(samples, [len(samples)])
    assert np.array_equal(heard, whole)
    assert kept == at
    assert np.array_equal(heard_samples(samples, 1), whole)


def test_single_samples_give_the_same(answer: Samples) -> None:
    samples = answer[:20_000]
    assert np.array_equal(take(samples, [1])[0], take(samples, [20_000])[0])


def test_without_a_front_nothing_changes(answer: Samples) -> None:
    assert np.array_equal(heard_samples(answer, 0), answer)
    intake = Intake(RATE_HZ, front=0)
    heard = [intake.push(chunk) for chunk in cut(answer, [1000])]
    assert np.array_equal(np.concatenate([*heard, intake.close()]), answer)
    assert not intake.kept


def test_gated_speech_is_the_recordings_own(answer: Samples) -> None:
    """As it is, from 50 Hz on; an offset goes: a 20 Hz high-pass of half a transition of 15 Hz."""
    samples = np.concatenate([noise(3.0, -65.0), answer, silence(4.0)])
    intake = Intake(RATE_HZ, front=2)
    heard = [intake.push(chunk) for chunk in cut(samples, [777])]
    heard = np.concatenate([*heard, intake.close()])
    there = [samples[span.source : span.source + span.samples] for span in intake.kept]
    assert level_dbfs(heard - np.concatenate(there)) < level_dbfs(heard) - 30
    offset = heard_samples((samples + np.float32(0.02)).astype(np.float32), 2)
    np.testing.assert_allclose(offset, heard, atol=1e-6)
    assert np.array_equal(heard, heard_samples(samples, 2))
    again = Intake(RATE_HZ, front=2)
    for chunk in cut(samples, [8000]):
        again.push(chunk)
    again.close()
    assert list(intake.kept) == list(again.kept)
    (first, *_), (levelled, *_) = intake.kept, take(samples, [8000])[1]
    assert levelled.source - first.source == 3 * FRAME_SAMPLES  # 13 frames around it, not 10


def test_a_stream_is_heard_before_it_ends(answer: Samples) -> None:
    """Of speech that goes on, all comes out but the last 0.75 s and what may be a pause."""
    samples = np.concatenate([answer, answer])
    intake = Intake(RATE_HZ, front=1)
    heard = sum(intake.push(chunk).size for chunk in cut(samples, [160]))
    assert heard > len(samples) - (0.75 + LEAD_S + 0.5) * RATE_HZ


def test_long_noise_leaves_nothing_behind() -> None:
    """Of ten minutes, 38 MB as float32, a tenth at the most."""
    intake = Intake(RATE_HZ, front=1)
    second = noise(1.0, -65.0)
    intake.push(second)
    before = resident_bytes()
    for _ in range(600):
        assert not intake.push(second).size
    assert not intake.close().size
    assert resident_bytes() - before < 4e6


@settings(deadline=None, max_examples=15)
@given(
    sizes=CHUNKS, seed=st.integers(0, 3), revision=st.integers(0, 2), wanted=st.integers(1, 80_000)
)
def test_what_is_missing_is_foretold(
    sizes: list[int], seed: int, revision: int, wanted: int
) -> None:
    """Never too late: with one sample less than is said, less than is wanted has come out."""
    spoken = speech(2.5, seed=seed)
    samples = np.concatenate([noise(0.7, -65.0, seed=seed), spoken, silence(1.5), spoken, spoken])
    intake, heard, foretold = Intake(RATE_HZ, revision), 0, []
    came = 0
    for chunk in cut(samples, sizes):
        if heard < wanted:
            foretold.append(came + round(intake.missing_s(wanted - heard) * RATE_HZ))
        heard += intake.push(chunk).size
        came += chunk.size
        if heard >= wanted:
            break
    else:
        return
    assert all(came >= least for least in foretold)


def test_in_speech_it_is_foretold_to_the_sample(answer: Samples) -> None:
    for revision in (0, 1, 2):
        intake = Intake(RATE_HZ, revision)
        begun = intake.push(answer[: 2 * RATE_HZ]).size
        assert begun > RATE_HZ // 2
        missing = round(intake.missing_s(4000) * RATE_HZ)
        rest = answer[2 * RATE_HZ :]
        first, last = rest[: missing - 1], rest[missing - 1 : missing]
        short = intake.push(first).size
        assert short < 4000 <= short + intake.push(last).size, revision


# The high-pass


def test_high_pass_is_the_filter_it_says_it_is(answer: Samples) -> None:
    """Against its definition, a direct convolution; float64 FFTs of 4096 keep 1e-12."""
    taps = np.arange(TAPS) - DELAY
    low = np.sinc(2 * CUTOFF_HZ / RATE_HZ * taps) * np.kaiser(TAPS, KAISER_BETA)
    kernel = -low / low.sum()
    kernel[DELAY] += 1
    edges = [np.full(DELAY, answer[i], np.float64) for i in (0, -1)]
    expected = np.convolve(np.concatenate([edges[0], answer, edges[1]]), kernel, "valid")
    found = high_passed(answer)
    assert found.shape == answer.shape
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("hz", [50.0, 60.0])
def test_mains_are_gone_and_voices_stay(hz: float) -> None:
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    inner = slice(TAPS, -TAPS)
    mains = np.sin(2 * np.pi * hz * t).astype(np.float32)
    assert level_dbfs(high_passed(mains)[inner]) < level_dbfs(mains[inner]) - 60
    voice = np.sin(2 * np.pi * 90.0 * t).astype(np.float32)
    assert level_dbfs(high_passed(voice)[inner]) > level_dbfs(voice[inner]) - 0.5


def test_an_offset_is_no_step(answer: Samples) -> None:
    """From the first sample on; float32 samples near 0.25 carry 1.5e-8 of rounding each."""
    offset = (answer + np.float32(0.25)).astype(np.float32)
    np.testing.assert_allclose(high_passed(offset), high_passed(answer), atol=1e-6)


# The gate


@pytest.mark.parametrize("around", [silence(7.0), noise(7.0, -65.0, "pink")])
def test_what_lies_around_speech_is_left_out(answer: Samples, around: Samples) -> None:
    """Kept are the speech and its surroundings, within two frames for the grid that it lies on."""
    _, (alone,) = take(answer, [8000])
    heard, kept = take(np.concatenate([around, answer, around]), [8000])
    assert len(kept) == 1
    begins_s = (kept[0].source - len(around)) / RATE_HZ
    ends_s = begins_s + kept[0].samples / RATE_HZ
    assert begins_s >= -LEAD_S - 0.1
    assert ends_s <= len(answer) / RATE_HZ + TAIL_S + 0.1
    assert ends_s >= (alone.source + alone.samples) / RATE_HZ - 0.1
    assert len(heard) == kept[0].samples


def test_short_pauses_stay_and_long_ones_are_shortened(answer: Samples) -> None:
    spoken = answer[: 2 * RATE_HZ]
    for pause_s, kept_s in ((0.5, 0.5), (10.0, PAUSE_S)):
        pause = noise(pause_s, -65.0, "pink")
        joined = heard_samples(np.concatenate([spoken, pause, spoken]), 1)
        longest = heard_samples(np.concatenate([spoken, spoken]), 1)
        added_s = (len(joined) - len(longest)) / RATE_HZ
        # The pauses at the seam of the two belong to it, as does half a second of grids.
        assert kept_s - 0.6 <= added_s <= kept_s + 0.1, pause_s


def test_a_click_is_no_speech() -> None:
    samples = noise(6.0, -65.0)
    samples[40_000:40_020] += np.float32(0.9)
    assert not heard_samples(samples, 1).size


def test_a_short_word_is_heard() -> None:
    word = speech(1.0, seed=2)[2400 : 2400 + RATE_HZ // 4]
    samples = np.concatenate([noise(1.0, -65.0), word, noise(1.0, -65.0)])
    heard = heard_samples(samples, 1)
    assert len(word) < len(heard) < len(word) + (LEAD_S + TAIL_S + 0.2) * RATE_HZ


# The level


@pytest.mark.parametrize("gain_db", [-24.0, -12.0, 6.0])
def test_gain_cannot_matter(answer: Samples, gain_db: float) -> None:
    """Float32 samples scaled by 10^(g/20) are rounded anew: 6e-8 of a sample each."""
    expected = heard_samples(answer, 1)
    found = heard_samples((answer * np.float32(db(gain_db))).astype(np.float32), 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_speech_leaves_at_its_level(answer: Samples) -> None:
    heard = heard_samples(np.concatenate([noise(3.0, -70.0), answer]), 1)
    powers = np.square(heard[: len(heard) // FRAME_SAMPLES * FRAME_SAMPLES], dtype=np.float64)
    frames = powers.reshape(-1, FRAME_SAMPLES).mean(1)
    loud = frames[frames > frames.max() / 100]
    assert 10 * np.log10(loud.mean()) == pytest.approx(SPEECH_DBFS, abs=1.5)


def test_hum_under_speech_cannot_matter(answer: Samples) -> None:
    """60 dB below what it was, raised by as much as the speech: -80 dBFS and less are left."""
    expected = heard_samples(answer, 1)
    t = np.arange(len(answer)) / RATE_HZ
    mains = (db(-47.0) * np.sin(2 * np.pi * 50.0 * t)).astype(np.float32)
    with_mains = heard_samples(answer + mains, 1)
    assert with_mains.size == expected.size
    assert level_dbfs(with_mains - expected) < -80


# Where it lies in the recording


def test_kept_stretches_tell_where_they_come_from(answer: Samples) -> None:
    gap = noise(5.0, -70.0)
    samples = np.concatenate([gap, answer, gap, answer])
    heard, kept = take(samples, [4000])
    assert len(kept) >= 2
    assert kept[0].start == 0
    assert all(a.start + a.samples == b.start for a, b in itertools.pairwise(kept))
    assert kept[-1].start + kept[-1].samples == len(heard)
    passed = high_passed(samples)
    for span in kept:
        there = passed[span.source : span.source + span.samples]
        here = heard[span.start : span.start + span.samples]
        # The gain is one number once the first second has passed, and moves slowly.
        assert np.corrcoef(here, there)[0, 1] > 0.99
    last = kept[-1]
    time_s = (last.start + 800) / RATE_HZ
    assert source_time_s(kept, time_s) == pytest.approx((last.source + 800) / RATE_HZ)
    assert source_time_s((), 1.25) == 1.25


class Echo:
    """A run that says one word, over all that it heard."""

    kept = ()

    def __init__(self) -> None:
        self.samples = 0

    def push(self, samples: Samples) -> None:
        self.samples += samples.size

    def provisional(self) -> None:
        return None

    def finish(self) -> Grade:
        return Grade({}, words=(Word("all", 0.0, self.samples / RATE_HZ),))


def test_words_get_the_times_of_the_recording(answer: Samples) -> None:
    run, intake = Echo(), Intake(RATE_HZ, front=1)
    samples = np.concatenate([silence(4.0), answer, silence(5.0)])
    with Stream(run, StageClock(), "echo", {}, intake) as stream:
        stream.feed(samples)
        result = stream.finish()
    (word,) = result.words
    (span,) = run.kept
    assert word.start_s == pytest.approx(span.source / RATE_HZ)
    assert word.end_s == pytest.approx((span.source + span.samples) / RATE_HZ)
    assert result.validity.speech_s < 3.0


def test_a_bundle_says_whether_it_has_a_front(fake_bundle: Path, answer: Samples) -> None:
    samples = np.concatenate([silence(6.0), answer])
    without = asa.load(fake_bundle, backend="fake", threads=1).assess((samples, RATE_HZ))
    path = fake_bundle / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"front": 1}))
    manifest = json.loads((fake_bundle / "asa.json").read_text())
    manifest["artifacts"]["config.json"] = {
        "sha256": sha256_file(path),
        "bytes": path.stat().st_size,
    }
    (fake_bundle / "asa.json").write_text(json.dumps(manifest))
    engine = asa.load(fake_bundle, backend="fake", threads=1)
    fronted = engine.assess((samples, RATE_HZ))
    alone = engine.assess((answer, RATE_HZ))
    assert fronted.scores["total"].value != without.scores["total"].value
    # `sd` is told by the speech, not by the silence before it.
    assert fronted.scores["total"].sd == pytest.approx(alone.scores["total"].sd, abs=0.05)


# Real learners


def test_real_learners_keep_their_speech(corpus: Path) -> None:
    """Of every 50th recording, nine tenths of the energy at the least."""
    lines = (corpus / "train.jsonl").read_text(encoding="utf-8").splitlines()[::50]
    for line in lines:
        row = json.loads(line)
        samples = read_audio(corpus / row["audio"])
        _, kept = take(samples, [8000])
        passed = np.square(high_passed(samples))
        inside = sum(passed[k.source : k.source + k.samples].sum() for k in kept)
        assert inside > 0.9 * passed.sum(), row["id"]


@pytest.fixture
def cases(corpus: Path) -> Path:
    """Recordings that went wrong once; tests that need them skip without."""
    folder = corpus.parents[1] / "cases"
    if not folder.is_dir():
        pytest.skip(f"no recordings that went wrong at {folder}")
    return folder


def test_silence_around_a_recording_leaves_it_as_it_was(cases: Path) -> None:
    """But for the grid of frames, which may lie up to a frame off, and the detector's doubts."""
    (original,) = cases.glob("original_*.flac")
    _, (alone,) = take(read_audio(original), [8000])
    for name, lead_s in (("lead_silence_3s*", 3.0), ("trail_silence_5s*", 0.0)):
        (changed,) = cases.glob(name)
        _, (span,) = take(read_audio(changed), [8000])
        assert abs(span.source - lead_s * RATE_HZ - alone.source) <= 2 * FRAME_SAMPLES, name
        assert abs(span.samples - alone.samples) <= 2 * FRAME_SAMPLES, name


@pytest.mark.parametrize("name", ["one_word_dog_espeak*", "one_word_learner*"])
def test_one_word_is_an_answer(cases: Path, name: str) -> None:
    (path,) = cases.glob(name)
    for front_revision in (0, 1):
        intake = Intake(RATE_HZ, front_revision)
        heard = [intake.push(read_audio(path)), intake.close()]
        assert intake.validity().scorable, intake.validity()
        assert np.concatenate(heard).size > RATE_HZ // 2


def test_a_child_who_says_one_long_vowel_is_heard(corpus: Path) -> None:
    """A boy of six says "bye"; the detector doubts all but its beginning."""
    intake = Intake(RATE_HZ, front=1)
    intake.push(read_audio(corpus / "audio" / "000010168.flac"))
    intake.close()
    assert intake.validity().scorable
