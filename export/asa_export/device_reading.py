"""One file to ship that judges the reading of a text: the pronunciation grader as libasa maps it.

Networks stand in it as in the bundle, in 8 bits; beside them the judges, the vocabulary, the
dictionary, the letter-to-sound model, and what characters and abbreviations are read as. The judge
of speech without a text is left out.
"""

from __future__ import annotations

import struct
import sys
import unicodedata
from collections.abc import Iterator
from importlib import metadata
from typing import Final

import numpy as np

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.audio.vad import detector_weights
from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.errors import UsageError
from asa_engine.graders.pronunciation.config import PronunciationConfig
from asa_engine.graders.pronunciation.stages import SCALE
from asa_engine.recogniser.vocabulary import Vocabulary
from asa_engine.text.abbreviations import (
    BEFORE_NUMBERS,
    DOTTED,
    MONTHS,
    SPELLED,
    TITLES,
    WEEKDAYS,
)
from asa_engine.text.characters import KEPT, plain
from asa_engine.text.dictionary import DICTIONARY_NAME
from asa_engine.text.letters import LETTERS_NAME
from asa_engine.text.package_data import read_package_data
from asa_engine.text.rules import NUMBERED
from asa_export.device import Stored, described_aspect, laid_out, pairs, text, windows

__all__ = ["abbreviations", "characters", "pronunciation_file"]

_FREE: Final = "free."
_SYMBOL: Final = "\x01"
"""What stands for a character that is read in words of its own, which libasa does not know."""
_OTHER, _LETTER, _MARK = range(3)


def pronunciation_file(bundle: Bundle, precision: str, name: str) -> bytes:
    """Return the file of a pronunciation grader.

    Args:
        bundle: Its weights are kept as they are, so scores are those of the native backend.
        precision: What libasa packs them to when it opens the file, unless told otherwise.
        name: What the grader calls itself.

    Raises:
        CheckpointError: A tensor is missing, of another shape, or not finite.
        BackendError: The speech detector's weights are missing or not those that are known.
    """
    config = PronunciationConfig.from_dict(bundle.config)
    source = Tensors(bundle.path / WEIGHTS_NAME)
    about = (config.grader, name, bundle.version, bundle.sha256, metadata.version("asa-engine"))
    described = b"".join(text(said) for said in (*about, precision)) + _described(config, source)
    return laid_out(described, _tensors(source) | detector_weights() | _reader(bundle))


def _tensors(source: Tensors) -> dict[str, Stored]:
    """Return every tensor but those of speech without a text; what is in 8 bits stays so."""
    names = [name for name in source.names() if not name.startswith(_FREE)]
    scaled = {name.removesuffix(SCALE) for name in names if name.endswith(SCALE)}
    return {
        name: values.astype(np.int8) if name in scaled else values
        for name in names
        for values in (source.read(name, source.shape(name)),)
    }


def _reader(bundle: Bundle) -> dict[str, Stored]:
    """Return what texts are read with."""
    return {
        "reader.dictionary": read_package_data(DICTIONARY_NAME),
        "reader.letters": read_package_data(LETTERS_NAME),
        "reader.vocabulary": "\n".join(Vocabulary.read(bundle.path).tokens).rstrip("\n").encode(),
        "reader.characters": characters(),
        "reader.abbreviations": abbreviations(),
    }


def _described(config: PronunciationConfig, source: Tensors) -> bytes:
    decoder, limits = config.decoder, config.thresholds
    seeds, _, width = source.shape("text.input.weight")
    numbers = (
        *windows(config.encoder, config.window_samples, config.min_window_samples),
        *(0, config.front),
        *(decoder.layers, decoder.heads, decoder.ffn, decoder.tokens, decoder.positions),
        *(len(config.flat_heads), *config.flat_heads),
        source.shape("phones.fc1.weight")[0],
        source.shape("omission.fc1.weight")[0],
        *(config.heads, seeds, width),
        sum(name.startswith("text.") and name.endswith(".qkv.weight") for name in source.names()),
        source.shape("text.layers.0.fc1.weight")[2],
        source.shape("text.frames.directions")[1],
        source.shape("text.pooled.directions")[1],
        source.shape("text.net_pooled")[0],
        source.shape("text.kernel.weights")[0],
        source.shape("text.score1.weight")[2],
        source.shape("text.word1.weight")[2],
        round(config.max_text_s * 16_000),
    )
    verdicts = (limits.mismatch, limits.omission, limits.insertion)
    aspects = [
        described_aspect(aspect) + pairs(config.sd_by_score.get(aspect.name, ()))
        for aspect in config.aspects
    ]
    return b"".join(
        (
            struct.pack(f"<{len(numbers)}I", *numbers),
            struct.pack("<5d", *verdicts, limits.mispronounced, limits.poor_phone),
            pairs(config.word_sd),
            struct.pack("<I", len(aspects)),
            *aspects,
        )
    )


def characters() -> bytes:
    """Return what characters beyond ASCII are read as: of each its code point, kind and text.

    Those that cannot be read aloud are left out.
    """
    return b"".join(
        struct.pack("<IBB", code, kind, len(read)) + read.encode("ascii")
        for code, kind, read in _characters()
    )


def _characters() -> Iterator[tuple[int, int, str]]:
    for code in range(0x80, sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        if category in ("Cn", "Co", "Cs") or category == "Lo":
            continue
        try:
            # A mark is read only behind a letter.
            read = plain("e" + character).text[1:]
        except UsageError:
            continue
        kind = _MARK if category == "Mn" else _LETTER if character.isalpha() else _OTHER
        read = read.replace("\u2013", " ")
        symbols = any(c in KEPT or c.isdigit() for c in read)
        yield code, kind, _SYMBOL if symbols else read


def abbreviations() -> bytes:
    """Return lines of a table's number, an abbreviation and the words that are read for it."""
    months = MONTHS | {month: month for month in MONTHS.values()}
    tables = (
        TITLES,
        {short: said for short, said in DOTTED.items() if short.isalpha()},
        WEEKDAYS,
        months,
        dict.fromkeys(NUMBERED, ""),
        dict.fromkeys(map(str.lower, SPELLED), ""),
        BEFORE_NUMBERS,
    )
    return "".join(
        f"{number}\t{short}\t{said}\n"
        for number, table in enumerate(tables)
        for short, said in sorted(table.items())
    ).encode()
