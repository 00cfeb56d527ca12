"""Text to tokens and back at run time: the tokenizer's own file, without transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from asa_engine.errors import BackendError, CheckpointError

__all__ = ["TextTokens"]

MAX_BYTES = 64 * 2**20


class TextTokens:
    """A byte-level tokenizer for anyone's text: control tokens written in it stay plain text.

    Args:
        description: Contents of a `tokenizer.json`.

    Attributes:
        description: As given.

    Raises:
        BackendError: The tokenizers package is not installed.
        CheckpointError: It is no tokenizer's description.
    """

    def __init__(self, description: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise BackendError(
                "this grader needs tokenizers", hint="pip install 'asa-engine[recogniser]'"
            ) from None
        factory: Any = Tokenizer
        try:
            self._tokenizer = factory.from_str(description)
        except Exception as failure:  # tokenizers raises plain Exception
            raise CheckpointError(
                f"the tokenizer cannot be read: {str(failure)[:200]}",
                hint="export the bundle again",
            ) from None
        self._tokenizer.encode_special_tokens = True
        self.description = description

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a `tokenizer.json`.

        Raises:
            BackendError: The tokenizers package is not installed.
            CheckpointError: The file is missing, too large, or no tokenizer's description.
        """
        try:
            if path.stat().st_size > MAX_BYTES:
                raise CheckpointError(f"{path} is larger than {MAX_BYTES} bytes")
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"{path} cannot be read: {error}", hint="export the bundle again"
            ) from None

    @property
    def size(self) -> int:
        """Tokens in all, control tokens included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text, none of them a control token."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; bytes that make no character become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))
