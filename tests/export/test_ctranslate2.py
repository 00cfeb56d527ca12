"""Whisper into a bundle: what is written is what was read, in fewer bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import audio_samples as made
import numpy as np
import pytest
import soundfile

from asa_engine.backbones import backbone_folder
from asa_engine.errors import CheckpointError, DriftError, UsageError
from asa_engine.manifest import read_manifest
from asa_engine.nn.ct2 import read_ct2_encoder, read_ct2_variables
from asa_engine.recogniser import Recogniser
from asa_export.ctranslate2 import check_words, convert_whisper, word_errors
from asa_export.speech import Recording

pytest.importorskip("ctranslate2")


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return backbone_folder("whisper-tiny.en")
    except CheckpointError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def converted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("int8") / "recogniser"
    assert convert_whisper(folder, target, "int8") == target / "model.bin"
    return target


def test_int8_keeps_the_encoder_and_rounds_the_decoder(folder: Path, converted: Path) -> None:
    size = (converted / "model.bin").stat().st_size
    assert size < 0.65 * (folder / "model.bin").stat().st_size
    theirs, heads = read_ct2_encoder(folder / "model.bin")
    ours, ours_heads = read_ct2_encoder(converted / "model.bin")
    assert heads == ours_heads
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)
    (_, before), (_, after) = (
        read_ct2_variables(f / "model.bin", "decoder/") for f in (folder, converted)
    )
    name = "decoder/layer_0/ffn/linear_0/weight"
    restored = after[name] / after[f"{name}_scale"][:, None]
    step = np.abs(before[name].astype(np.float32)).max(axis=1, keepdims=True) / 127
    assert after[name].dtype == np.int8
    assert (np.abs(restored - before[name]) <= step * 0.501).all()


def test_quantised_here_or_when_opened_is_the_same(
    folder: Path, converted: Path, corpus: Path
) -> None:
    ours, theirs = Recogniser.open(converted), Recogniser.open(folder)
    for utterance in read_manifest(corpus / "train.jsonl")[100:2500:800]:
        samples = soundfile.read(utterance.audio, dtype="float32")[0]
        heard = []
        for recogniser in (ours, theirs):
            recognition = recogniser.start()
            recognition.push(samples)
            heard.append(recognition.finish())
        assert heard[0].words
        assert heard[0] == heard[1]


def test_a_hugging_face_folder_becomes_the_same_model(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from asa_engine.nn.hugging_face import build_whisper

    source = tmp_path / "source"
    build_whisper(folder).save_pretrained(source)
    shutil.copyfile(folder / "tokenizer.json", source / "tokenizer.json")
    (source / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    target = tmp_path / "target"
    convert_whisper(source, target, "fp32")
    _, theirs = read_ct2_variables(folder / "model.bin")
    _, ours = read_ct2_variables(target / "model.bin")
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    known, written = (json.loads((f / "config.json").read_text()) for f in (folder, target))
    for name in ("suppress_ids", "suppress_ids_begin", "alignment_heads"):
        assert written[name] == known[name]
    assert sorted(path.name for path in target.iterdir()) == [
        "config.json",
        "model.bin",
        "vocabulary.json",
    ]


def test_words_are_compared(folder: Path, converted: Path, corpus: Path) -> None:
    utterances = read_manifest(corpus / "train.jsonl")[300:2500:900]
    recordings = [Recording(u.id, u.audio) for u in utterances]
    parity = check_words(converted, folder, recordings, budget=1.0)
    assert parity.recordings == len(recordings)
    assert parity.words > 5
    with pytest.raises(DriftError, match="words change at int8"):
        check_words(converted, folder, recordings, budget=-0.1)
    silence = [Recording("silence", made.silence(2.0))]
    assert check_words(converted, folder, silence).share == 0


def test_word_errors_are_the_fewest_edits() -> None:
    assert word_errors([], []) == 0
    assert word_errors("we call it bear".split(), []) == 4
    assert word_errors("we call it bear".split(), "we called bear too".split()) == 3


def test_what_is_no_whisper_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not int4"):
        convert_whisper(folder, tmp_path / "a", "int4")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        convert_whisper(tmp_path, tmp_path / "a", "int8")
    assert not (tmp_path / "a").exists()
