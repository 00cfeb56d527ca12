"""Write a recogniser into a bundle: Whisper in CTranslate2's layout, fp16 or a decoder in int8.

The encoder stays in floating point: the engine runs it on its own kernels, which quantise as they
see fit. CTranslate2's int8 is a scale for each row, so a file quantised here and one quantised
when it is opened give the same words.
"""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import CheckpointError, DriftError, UsageError
from asa_engine.files import atomic_folder
from asa_engine.nn.ct2 import SUPPORTED_FORMAT_VERSION, read_ct2_variables
from asa_engine.recogniser import Recogniser
from asa_export.speech import Recording

__all__ = ["WordParity", "check_words", "convert_whisper", "word_errors"]

PRECISIONS: Final = ("fp32", "int8")
MAX_WORD_CHANGES: Final = 0.05

_FILES: Final = ("config.json", "vocabulary.json", "vocabulary.txt")
_TYPE_IDS: Final = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
_WHISPER_REVISION: Final = 3
# Weights that CTranslate2 multiplies with; the projection to tokens is the embeddings' alias.
_QUANTISED: Final = re.compile(r"decoder/(embeddings|.*linear_\d+)/weight")
_ALIASES: Final = ("weight", "weight_scale")


def convert_whisper(source: Path, target: Path, precision: str) -> Path:
    """Write a Whisper model the way `asa_engine.recogniser` reads it.

    Args:
        source: Hugging Face's folder (`model.safetensors`, `config.json`, tokenizer), or
            CTranslate2's with weights in fp16 or fp32.
        target: The folder to write.
        precision: `fp32` (weights as they are stored, fp16 from Hugging Face) or `int8`.

    Returns:
        The `model.bin` written.

    Raises:
        CheckpointError: The source holds no whole Whisper.
        UsageError: There is no such precision, or the target is there already.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"a recogniser is written at {' or '.join(PRECISIONS)}, not {precision}")
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
        if precision == "int8":
            _write_int8(folder / "model.bin", work / "model.bin")
        else:
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


def _write_int8(source: Path, target: Path) -> None:
    """Copy a model with the decoder's matrices in int8, one scale a row."""
    spec, variables = read_ct2_variables(source)
    if spec != "WhisperSpec" or "decoder/embeddings/weight" not in variables:
        raise CheckpointError(f"{source} is a {spec}, not Whisper", mend="give a Whisper model")
    written: dict[str, NDArray[Any]] = {}
    for name, value in variables.items():
        if _QUANTISED.fullmatch(name) and value.dtype.kind == "f":
            rows = value.astype(np.float32)
            largest = np.abs(rows).max(axis=1)
            scale = (127 / np.where(largest == 0, 127, largest)).astype(np.float32)
            written[name] = np.rint(rows * scale[:, None]).astype(np.int8)
            written[f"{name}_scale"] = scale
        else:
            written[name] = value
    aliases = {}
    if "decoder/projection/weight" not in written:
        for name in _ALIASES:
            aliases[f"decoder/projection/{name}"] = f"decoder/embeddings/{name}"
    with target.open("wb") as out:
        out.write(struct.pack("<I", SUPPORTED_FORMAT_VERSION) + _string(spec))
        out.write(struct.pack("<II", _WHISPER_REVISION, len(written)))
        for name, value in written.items():
            shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
            kind = struct.pack("<BI", _TYPE_IDS[value.dtype.name], value.nbytes)
            out.write(_string(name) + shape + kind + value.tobytes())
        out.write(struct.pack("<I", len(aliases)))
        for alias, name in aliases.items():
            out.write(_string(alias) + _string(name))


def _string(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


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
