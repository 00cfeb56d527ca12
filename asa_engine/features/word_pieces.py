"""From a transcript to word pieces, without PyTorch: what the text encoder is given to read."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from asa_engine.errors import BackendError, BundleError

__all__ = ["Pieces", "WordPieces", "clean"]

TOKENIZER_NAME = "tokenizer.json"
MAX_TOKENIZER_BYTES = 32 * 2**20
# Characters beyond this are never read: far more than any number of word pieces needs.
MAX_CHARACTERS = 100_000
_MARKS = ("[CLS]", "[SEP]")
# Emoji and pictures are "So", their skin tones "Sk"; what joins and varies them is in "Cf" and
# these two blocks of "Mn".
_DROPPED = {"So", "Sk", "Cc", "Cf", "Cs", "Co", "Cn"}
_VARIATIONS = range(0xFE00, 0xFE10)


def clean(text: str) -> str:
    """Return a transcript as one line of speech: no emoji, no control characters, single spaces.

    None of these can be spoken; a recogniser that writes them has made them up.
    """
    kept = [
        " " if character.isspace() else character
        for character in text[:MAX_CHARACTERS]
        if character.isspace()
        or (unicodedata.category(character) not in _DROPPED and ord(character) not in _VARIATIONS)
    ]
    return " ".join("".join(kept).split())


@dataclass(frozen=True, slots=True)
class Pieces:
    """A text as word pieces.

    Attributes:
        ids: The mark of the beginning, the pieces, the mark of the end.
        is_cut: Whether pieces were left out because there were too many.
    """

    ids: tuple[int, ...]
    is_cut: bool


class WordPieces:
    """Cuts text into word pieces as BERT's own tokenizer does.

    Args:
        tokenizer: A loaded `tokenizers.Tokenizer`.
        max_pieces: Pieces at most, the marks at both ends included.
    """

    def __init__(self, tokenizer: Any, max_pieces: int) -> None:
        self._tokenizer = tokenizer
        self._max_pieces = max_pieces
        self._start, self._end = (tokenizer.token_to_id(mark) for mark in _MARKS)

    @classmethod
    def open(cls, path: Path, max_pieces: int) -> Self:
        """Read a `tokenizer.json`.

        Raises:
            BundleError: It is missing, too large, or not a BERT tokenizer's.
            BackendError: The tokenizers package is not installed.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise BackendError(
                "reading transcripts needs tokenizers", hint="pip install 'asa-engine[recogniser]'"
            ) from None
        try:
            if path.stat().st_size > MAX_TOKENIZER_BYTES:
                raise BundleError(f"{path} is larger than {MAX_TOKENIZER_BYTES} bytes")
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as failure:
            raise BundleError(f"{path} cannot be read: {failure}") from None
        except BundleError:
            raise
        except Exception as failure:  # tokenizers raises plain Exception
            raise BundleError(f"{path} is not a tokenizer: {failure}") from None
        if any(tokenizer.token_to_id(mark) is None for mark in _MARKS):
            raise BundleError(f"{path} has no {' and '.join(_MARKS)}: it is not a BERT tokenizer")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, max_pieces)

    def encode(self, text: str) -> Pieces:
        """Cut a cleaned text; of a long one the first pieces are kept."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        room = self._max_pieces - len(_MARKS)
        return Pieces((self._start, *ids[:room], self._end), len(ids) > room)
