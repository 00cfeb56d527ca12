"""Whisper's tokens back to text: the byte-level vocabulary, read from the model's folder."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from asa_engine.errors import CheckpointError

__all__ = ["VOCABULARY_NAMES", "Vocabulary"]

VOCABULARY_NAMES: Final = ("vocabulary.json", "vocabulary.txt")
_MAX_BYTES: Final = 16 * 2**20
_MAX_TOKENS: Final = 100_000
_SPACE: Final = "\u0120"  # how the byte-level alphabet writes a space


def _byte_alphabet() -> dict[str, int]:
    """Return character -> byte: printable bytes stand for themselves, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return alphabet | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES: Final = _byte_alphabet()
_LETTERS: Final = {byte: character for character, byte in _BYTES.items()}
# What GPT-2 splits a text into before it looks for tokens, for texts of letters and marks.
_PIECES: Final = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?[^\s\w]+|\s+")


class Vocabulary:
    """Token ids to text and words.

    Attributes:
        prompt: What decoding starts with: English, transcribed, without time marks.
        start: The prompt without its last token.
        no_speech: Its probability after the first token is that nobody speaks.
        english: Its probability among the languages, likewise, that English is spoken.
        end: The first id that is no text.
        is_multilingual: Whether the model was told a language.
    """

    def __init__(self, tokens: Sequence[str], where: str) -> None:
        ids = {token: index for index, token in enumerate(tokens)}
        try:
            self.end = ids["<|endoftext|>"]
            start, without_times = ids["<|startoftranscript|>"], ids["<|notimestamps|>"]
            english, task = ids["<|en|>"], ids["<|transcribe|>"]
        except KeyError as missing:
            raise CheckpointError(
                f"{where} lacks the token {missing}", hint="give the folder of a Whisper model"
            ) from None
        # The English models' alphabet is GPT-2's, one token shorter than that of the others.
        self.is_multilingual = without_times > _ENGLISH_WITHOUT_TIMES
        self.start = [start, english, task] if self.is_multilingual else [start]
        self.prompt = [*self.start, without_times]
        self.no_speech = without_times - 1
        self.english = english
        self._tokens = tokens
        self._ids = ids

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """Read `vocabulary.json` or `vocabulary.txt`.

        Raises:
            CheckpointError: Neither is there, or it is no Whisper's.
        """
        path = next((folder / name for name in VOCABULARY_NAMES if (folder / name).is_file()), None)
        if path is None:
            raise CheckpointError(
                f"{folder} holds no {' or '.join(VOCABULARY_NAMES)}",
                hint="give a CTranslate2 Whisper folder",
            )
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_BYTES} bytes", hint="check it")
        try:
            text = path.read_text(encoding="utf-8")
            tokens = json.loads(text) if path.suffix == ".json" else text.split("\n")
        except (OSError, ValueError, RecursionError) as failure:
            raise CheckpointError(f"{path} cannot be read: {failure}", hint="check it") from None
        if (
            not isinstance(tokens, list)
            or len(tokens) > _MAX_TOKENS
            or not all(isinstance(token, str) for token in tokens)
        ):
            raise CheckpointError(f"{path} is no list of tokens", hint="fetch the model again")
        return cls(tokens, str(path))

    @property
    def tokens(self) -> Sequence[str]:
        """All tokens, in the order of their ids."""
        return self._tokens

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; bytes that make no character are left out."""
        characters = "".join(self._tokens[i] for i in ids if i < self.end)
        return bytes(_BYTES[c] for c in characters if c in _BYTES).decode("utf-8", "ignore")

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text: byte pairs, of which those with the lowest id join first.

        In this alphabet ids are in the order in which the pairs were learnt (Sennrich et al. 2016;
        Radford et al. 2019), so no list of merges is needed.
        """
        found: list[int] = []
        for piece in _PIECES.findall(text):
            parts = [_LETTERS[byte] for byte in piece.encode("utf-8")]
            while len(parts) > 1:
                joined = [self._ids.get(a + b, self.end) for a, b in itertools.pairwise(parts)]
                least = min(joined)
                if least >= self.end:
                    break
                at = joined.index(least)
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            found += (self._ids[part] for part in parts)
        return found

    def words(self, ids: Sequence[int]) -> list[list[int]]:
        """Group text tokens into words: each begins at a token that begins with a space."""
        groups: list[list[int]] = []
        for i in ids:
            if groups and not self._tokens[i].startswith(_SPACE):
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups


_ENGLISH_WITHOUT_TIMES: Final = 50362
