"""The recogniser with Whisper tiny.en: real learners, sounds without words, the reference."""

from __future__ import annotations

import shutil
from pathlib import Path

import audio_samples as made
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from asa_engine.errors import BackendError, CheckpointError
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.recogniser import Recogniser, Transcript, whisper
from asa_engine.recogniser.vocabulary import Vocabulary
from asa_engine.recogniser.whisper import Whisper

RATE = 16_000


@pytest.fixture(scope="module")
def recogniser(whisper_folder: Path) -> Recogniser:
    return Recogniser.open(whisper_folder)


@pytest.fixture(scope="module")
def recordings(corpus: Path) -> list[NDArray[np.float32]]:
    return [_read(u.audio) for u in read_manifest(corpus / "train.jsonl")[40:2500:350]]


def _read(path: Path) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = soundfile.read(path, dtype="float32")[0]
    return samples


def _hear(recogniser: Recogniser, samples: NDArray[np.float32], chunk: int = 10**9) -> Transcript:
    recognition = recogniser.start()
    for start in range(0, len(samples), chunk):
        recognition.push(samples[start : start + chunk])
    return recognition.finish()


def test_learners_are_heard_with_times_and_probabilities(
    recogniser: Recogniser, recordings: list[NDArray[np.float32]]
) -> None:
    for samples in recordings:
        transcript = _hear(recogniser, samples)
        assert transcript.words
        assert transcript.reasons == ()
        assert transcript.text == " ".join(word.text for word in transcript.words)
        times = [t for word in transcript.words for t in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= len(samples) / RATE
        assert all(0 <= (word.probability or 0) <= 1 for word in transcript.words)


def test_the_words_do_not_depend_on_chunks_or_threads(
    recogniser: Recogniser, whisper_folder: Path, recordings: list[NDArray[np.float32]]
) -> None:
    pause = np.zeros(RATE, np.float32)
    speech = np.concatenate([part for samples in recordings[:4] for part in (samples, pause)])
    whole = _hear(recogniser, speech)
    assert len(whole.words) > 10
    assert _hear(recogniser, speech, 777) == whole
    assert _hear(recogniser, speech, RATE) == whole
    assert _hear(Recogniser.open(whisper_folder, threads=2), speech).text == whole.text


def test_words_times_and_doubts_are_those_of_ctranslate2(
    whisper_folder: Path, recordings: list[NDArray[np.float32]]
) -> None:
    """CTranslate2's decoder and aligner, given the same frames, in float32."""
    ctranslate2 = pytest.importorskip("ctranslate2", reason="needs the extra 'recogniser'")
    theirs = ctranslate2.models.Whisper(
        str(whisper_folder), compute_type="float32", intra_threads=1
    )
    ours = Whisper.open(whisper_folder, precision="fp32", threads=1)
    vocabulary = Vocabulary.read(whisper_folder)
    for samples in recordings[:4]:
        heard = ours.hear(samples)
        frames = ctranslate2.StorageView.from_array(ours._encode(samples, 480_000)[None])
        (result,) = theirs.generate(
            frames,
            [vocabulary.prompt],
            beam_size=1,
            return_scores=True,
            return_no_speech_prob=True,
        )
        ids = result.sequences_ids[0]
        assert heard.text == vocabulary.text(ids).strip()
        # Sums of float32 in another order, some thousand of them a logit.
        assert heard.doubts.log_probability == pytest.approx(result.scores[0], abs=1e-3)
        assert heard.doubts.no_speech == pytest.approx(result.no_speech_prob, abs=1e-4)
        frame_count = round(len(samples) / RATE * 100)
        (aligned,) = theirs.align(frames, vocabulary.start, [ids], frame_count)
        begins: dict[int, int] = {}
        for token, frame in aligned.alignments:
            begins.setdefault(token, frame)
        at = 0
        for group, word in zip(vocabulary.words(ids), heard.words, strict=True):
            # A frame is 20 ms; a tie on the path may fall either way.
            assert word.start_s == pytest.approx(begins[at] / 50, abs=0.021)
            probability = np.mean(aligned.text_token_probs[at : at + len(group)])
            assert word.probability == pytest.approx(probability, abs=1e-3)
            at += len(group)


def test_with_full_windows_it_hears_what_the_reference_hears(
    whisper_folder: Path, recordings: list[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'bench'")
    from asa_engine.recogniser.reference import open_reference

    monkeypatch.setattr(whisper, "MIN_WINDOW_S", 30.0)
    ours = Whisper.open(whisper_folder, precision="fp32", threads=1)
    reference = open_reference(whisper_folder)
    for samples in recordings[:3]:
        assert ours.hear(samples).text == reference.hear(samples)


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(0, np.float32),
        np.zeros(5 * RATE, np.float32),
        made.noise(10.0),
        made.noise(10.0, -12.0, "pink"),
        made.melody(10.0),
        made.tone(10.0),
        made.silence(40.0),
    ],
    ids=["nothing", "zeros", "white noise", "loud pink noise", "melody", "tone", "dither"],
)
def test_sounds_without_words_are_no_words(
    recogniser: Recogniser, sound: NDArray[np.float32]
) -> None:
    transcript = _hear(recogniser, sound)
    assert transcript.words == ()
    assert transcript.reasons == ("no_words",)


def test_the_model_alone_writes_no_words_over_silence_and_noise(whisper_folder: Path) -> None:
    model = Whisper.open(whisper_folder, precision="int8", threads=1)
    for sound in (np.zeros(5 * RATE, np.float32), made.noise(10.0), made.noise(9.0, -12.0, "pink")):
        assert model.hear(sound).words == ()


def test_a_window_is_bounded(whisper_folder: Path) -> None:
    model = Whisper.open(whisper_folder, precision="int8", threads=1)
    with pytest.raises(ValueError, match="at most 480000"):
        model.hear(np.zeros(480_001, np.float32))
    with pytest.raises(ValueError, match="finite"):
        model.hear(np.full(RATE, np.nan, np.float32))


def test_broken_folders_are_one_clear_error(whisper_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="not bf16"):
        Recogniser.open(whisper_folder, precision="bf16")
    with pytest.raises(CheckpointError):
        Recogniser.open(tmp_path)
    for name, content in (
        ("heads", '{"alignment_heads": [[9, 0]]}'),
        ("tokens", '{"alignment_heads": [[1, 0]], "suppress_ids": [60000]}'),
        ("nothing", "{}"),
    ):
        odd = tmp_path / name
        shutil.copytree(whisper_folder, odd, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        (odd / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            Recogniser.open(odd)
    broken = tmp_path / "broken"
    shutil.copytree(whisper_folder, broken, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    weights = (broken / "model.bin").read_bytes()
    (broken / "model.bin").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError):
        Recogniser.open(broken)
