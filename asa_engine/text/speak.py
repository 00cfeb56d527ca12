"""A text as it is read aloud."""

from __future__ import annotations

from asa_engine.errors import UsageError
from asa_engine.text.characters import plain, unreadable
from asa_engine.text.lexicon import Lexicon
from asa_engine.text.pronounce import Pronounced, pronounce
from asa_engine.text.readings import UnreadableAt, tokens
from asa_engine.text.spoken import Reading, SpokenText, SpokenWord

__all__ = ["MAX_LETTERS", "MAX_WORDS", "speak"]

MAX_WORDS = 20_000
MAX_LETTERS = 40
"""Of one word."""
MAX_GUESSED = 500
"""Different words that are read by their letters: each takes milliseconds."""
_MAX_CHARACTERS = 20 * MAX_WORDS


def speak(text: str, lexicon: Lexicon | None = None) -> SpokenText:
    """Return the words of a text as they are read aloud, with their pronunciations.

    Args:
        text: English, of any punctuation and line breaks; at most `MAX_WORDS` words.
        lexicon: Words whose pronunciations come from here, not from the dictionary.

    Raises:
        UsageError: It holds no word, too many, or something that cannot be read aloud, which the
            message names.
    """
    if len(text) > _MAX_CHARACTERS:
        raise UsageError(
            f"the text has {len(text)} characters; at most {_MAX_CHARACTERS} are read",
            hint="read it in parts",
        )
    as_plain = plain(text)
    words: list[SpokenWord] = []
    readings: list[Reading] = []
    guessed: set[str] = set()
    try:
        for token in tokens(as_plain.text):
            span = as_plain.span(token.start, token.end)
            written = text[slice(*span)]
            before = len(words)
            words += [_spoken(word, written, span, lexicon) for word in token.words]
            if token.kind:
                readings.append(Reading(written, " ".join(token.words), token.kind, span))
            if len(words) > MAX_WORDS:
                raise UsageError(
                    f"the text has more than {MAX_WORDS} words", hint="read it in parts"
                )
            guessed.update(w.spoken for w in words[before:] if w.source == "letters")
            if len(guessed) > MAX_GUESSED:
                raise UsageError(
                    f"the text has more than {MAX_GUESSED} words that no dictionary has",
                    hint="only English is read; read it in parts, or bring a lexicon",
                )
    except UnreadableAt as error:
        start, _ = as_plain.span(error.place, error.place + 1)
        raise unreadable(text[start], "and how it is read here is not known") from None
    if not words:
        raise UsageError("the text holds no word", hint="give the text that was read")
    return SpokenText(tuple(words), text, tuple(readings))


def _spoken(word: str, written: str, span: tuple[int, int], lexicon: Lexicon | None) -> SpokenWord:
    if len(word) > MAX_LETTERS:
        raise UsageError(
            f"{word[:MAX_LETTERS]!r}... is longer than any word",
            hint="put spaces between the words",
        )
    own = lexicon.get(word) if lexicon is not None else ()
    found = Pronounced.of(own) if own else pronounce(word)
    return SpokenWord(
        written,
        word,
        found.pronunciations,
        found.source,
        found.confidence,
        span,
        found.variants,
    )
