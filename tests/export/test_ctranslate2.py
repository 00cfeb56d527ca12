"""Whisper into a bundle: what is written is what was read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import audio_samples as made
import numpy as np
import pytest
from numpy.typing import NDArray

from asa_engine.audio import read_audio
from asa_engine.errors import CheckpointError
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.evaluation.metrics import edit_distance
from asa_engine.nn.ct2 import read_ct2_variables
from asa_engine.recogniser import Recogniser
from asa_export.ctranslate2 import convert_whisper

pytest.importorskip("ctranslate2", reason="needs the extra 'recogniser'")


@pytest.fixture(scope="module")
def converted(whisper_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "recogniser"
    assert convert_whisper(whisper_folder, target) == target / "model.bin"
    return target


def test_the_weights_are_left_as_they_are(whisper_folder: Path, converted: Path) -> None:
    assert (converted / "model.bin").read_bytes() == (whisper_folder / "model.bin").read_bytes()
    assert sorted(p.name for p in converted.iterdir()) == [
        "config.json",
        "model.bin",
        "vocabulary.txt",
    ]


def test_a_hugging_face_folder_becomes_the_same_model(whisper_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'bench'")
    from asa_engine.nn.hugging_face import build_whisper

    source = tmp_path / "source"
    build_whisper(whisper_folder).save_pretrained(source)
    shutil.copyfile(whisper_folder / "tokenizer.json", source / "tokenizer.json")
    (source / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    target = tmp_path / "target"
    convert_whisper(source, target)
    _, theirs = read_ct2_variables(whisper_folder / "model.bin")
    _, ours = read_ct2_variables(target / "model.bin")
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    known, written = (json.loads((f / "config.json").read_text()) for f in (whisper_folder, target))
    for name in ("suppress_ids", "suppress_ids_begin", "alignment_heads"):
        assert written[name] == known[name]
    assert sorted(path.name for path in target.iterdir()) == [
        "config.json",
        "model.bin",
        "vocabulary.json",
    ]


def _words(recogniser: Recogniser, samples: NDArray[np.float32]) -> list[str]:
    recognition = recogniser.start()
    recognition.push(samples)
    return recognition.finish().text.lower().split()


def test_few_words_change_at_int8(whisper_folder: Path, converted: Path, corpus: Path) -> None:
    exact = Recogniser.open(whisper_folder, precision="fp32")
    rounded = Recogniser.open(converted, precision="int8")
    words = changed = 0
    for utterance in read_manifest(corpus / "train.jsonl")[100:2500:150]:
        samples = read_audio(utterance.audio)
        expected = _words(exact, samples)
        words += len(expected)
        changed += edit_distance(expected, _words(rounded, samples))
    assert words > 80  # where one word leads to the next, a single one may change three
    assert changed <= 0.1 * words
    assert _words(rounded, made.silence(2.0)) == []


def test_what_is_no_whisper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        convert_whisper(tmp_path, tmp_path / "a")
    assert not (tmp_path / "a").exists()
