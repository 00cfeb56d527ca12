"""Write a recogniser into a bundle: Whisper in CTranslate2's layout, its weights in fp16.

The engine's kernels quantise as they see fit when it is opened: a file quantised before would be
quantised twice, and hear other words than the recogniser that graders are trained on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import CheckpointError, DriftError
from asa_engine.files import atomic_folder
from asa_engine.recogniser import Recogniser
from asa_export.speech import Recording

__all__ = ["WordParity", "check_words", "convert_whisper", "word_errors"]

MAX_WORD_CHANGES: Final = 0.05

_FILES: Final = ("config.json", "vocabulary.json", "vocabulary.txt")


def convert_whisper(source: Path, target: Path) -> Path:
    """Write a Whisper model the way `asa_engine.recogniser` reads it.

    Args:
        source: Hugging Face's folder (`model.safetensors`, `config.json`, tokenizer), or
            CTranslate2's with weights in fp16 or fp32.
        target: The folder to write.

    Returns:
        The `model.bin` written.

    Raises:
        CheckpointError: The source holds no whole Whisper.
        UsageError: The target is there already.
    """
    with atomic_folder(target) as work:
        if (source / "model.bin").is_file():
            folder = source
        elif (source / "model.safetensors").is_file():
            folder = _from_hugging_face(source, work / "converted")
        else:
            raise CheckpointError(
                f"{source} holds neither model.safetensors nor CTranslate2's model.bin",
                mend="give the folder of a Whisper model",
            )
        for name in _FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, work / name)
        shutil.copyfile(folder / "model.bin", work / "model.bin")
        shutil.rmtree(work / "converted", ignore_errors=True)
    return target / "model.bin"


def _from_hugging_face(source: Path, folder: Path) -> Path:
    from ctranslate2.converters import TransformersConverter

    try:
        TransformersConverter(str(source), load_as_float16=True).convert(str(folder))
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as failure:
        raise CheckpointError(
            f"CTranslate2 cannot convert {source}: {failure}", mend="give a whole Whisper folder"
        ) from None
    return folder


def word_errors(truth: Sequence[str], heard: Sequence[str]) -> int:
    """Return the fewest substitutions, insertions and deletions from one to the other."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(truth, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return row[-1]


@dataclass(frozen=True, slots=True)
class WordParity:
    """How far the words of a converted recogniser are from those of its source.

    Attributes:
        recordings: How many were transcribed.
        words: Words heard by the source in fp32.
        changed: Words substituted, inserted or deleted.
    """

    recordings: int
    words: int
    changed: int

    @property
    def share(self) -> float:
        """Words changed, of those heard."""
        return self.changed / max(self.words, 1)


def check_words(
    converted: Path,
    source: Path,
    recordings: Sequence[Recording],
    *,
    precision: str = "int8",
    budget: float = MAX_WORD_CHANGES,
) -> WordParity:
    """Compare a converted recogniser with its source at fp32.

    Args:
        converted: The folder written by `convert_whisper`.
        source: A folder in CTranslate2's layout, in fp16 or fp32.
        recordings: What both transcribe.
        precision: The converted one's.
        budget: Largest share of words that may change.

    Raises:
        DriftError: More words change.
    """
    ours = Recogniser.open(converted, precision=precision)
    theirs = Recogniser.open(source, precision="fp32")
    words = changed = 0
    for recording in recordings:
        samples = recording.samples()
        heard, expected = (_words(recogniser, samples) for recogniser in (ours, theirs))
        words += len(expected)
        changed += word_errors(expected, heard)
    parity = WordParity(len(recordings), words, changed)
    if parity.share > budget:
        raise DriftError(
            f"{changed} of {words} words change at {precision}: {parity.share:.1%}, "
            f"and {budget:.1%} may",
            mend="export at fp32",
        )
    return parity


def _words(recogniser: Recogniser, samples: NDArray[np.float32]) -> list[str]:
    recognition = recogniser.start()
    recognition.push(samples)
    return recognition.finish().text.lower().split()
