"""Whisper into a bundle: what is written is what was read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import audio_samples as made
import numpy as np
import pytest

from asa_engine.backbones import backbone_folder
from asa_engine.errors import CheckpointError, DriftError
from asa_engine.manifest import read_manifest
from asa_engine.nn.ct2 import read_ct2_variables
from asa_export.ctranslate2 import check_words, convert_whisper, word_errors
from asa_export.speech import Recording

pytest.importorskip("ctranslate2", reason="needs the extra 'recogniser'")


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return backbone_folder("whisper-tiny.en")
    except CheckpointError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def converted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "recogniser"
    assert convert_whisper(folder, target) == target / "model.bin"
    return target


def test_the_weights_are_left_as_they_are(folder: Path, converted: Path) -> None:
    assert (converted / "model.bin").read_bytes() == (folder / "model.bin").read_bytes()
    assert sorted(p.name for p in converted.iterdir()) == [
        "config.json",
        "model.bin",
        "vocabulary.txt",
    ]


def test_a_hugging_face_folder_becomes_the_same_model(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'bench'")
    from asa_engine.nn.hugging_face import build_whisper

    source = tmp_path / "source"
    build_whisper(folder).save_pretrained(source)
    shutil.copyfile(folder / "tokenizer.json", source / "tokenizer.json")
    (source / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    target = tmp_path / "target"
    convert_whisper(source, target)
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


def test_what_is_no_whisper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        convert_whisper(tmp_path, tmp_path / "a")
    assert not (tmp_path / "a").exists()
