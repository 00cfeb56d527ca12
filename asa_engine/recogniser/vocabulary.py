"""Whisper's tokens back to text: the byte-level vocabulary, read from the model's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from asa_engine.errors import CheckpointError

__all__ = ["Vocabulary"]

_NAMES: Final = ("vocabulary.json", "vocabulary.txt")
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
                f"{where} lacks the token {missing}", mend="give the folder of a Whisper model"
            ) from None
        # The English models' alphabet is GPT-2's, one token shorter than that of the others.
        self.is_multilingual = without_times > _ENGLISH_WITHOUT_TIMES
        self.start = [start, english, task] if self.is_multilingual else [start]
        self.prompt = [*self.start, without_times]
        self.no_speech = without_times - 1
        self.english = english
        self._tokens = tokens

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """Read `vocabulary.json` or `vocabulary.txt`.

        Raises:
            CheckpointError: Neither is there, or it is no Whisper's.
        """
        path = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
        if path is None:
            raise CheckpointError(
                f"{folder} holds no {' or '.join(_NAMES)}", mend="give a CTranslate2 Whisper folder"
            )
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_BYTES} bytes", mend="check it")
        try:
            text = path.read_text(encoding="utf-8")
            tokens = json.loads(text) if path.suffix == ".json" else text.split("\n")
        except (OSError, ValueError, RecursionError) as failure:
            raise CheckpointError(f"{path} cannot be read: {failure}", mend="check it") from None
        if (
            not isinstance(tokens, list)
            or len(tokens) > _MAX_TOKENS
            or not all(isinstance(token, str) for token in tokens)
        ):
            raise CheckpointError(f"{path} is no list of tokens", mend="fetch the model again")
        return cls(tokens, str(path))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; bytes that make no character are left out."""
        characters = "".join(self._tokens[i] for i in ids if i < self.end)
        return bytes(_BYTES[c] for c in characters if c in _BYTES).decode("utf-8", "ignore")

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
