"""A text before it is heard: its words, their sounds, the tokens the decoder is made to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import UsageError
from asa_engine.features.phone_alignment import Alignment, align
from asa_engine.graders.pronunciation.describe import Sounds, classes_of
from asa_engine.recogniser.vocabulary import Vocabulary
from asa_engine.text import SpokenText, SpokenWord, speak

__all__ = [
    "GROUP_S",
    "GROUP_TOKENS",
    "Group",
    "Plan",
    "groups_of",
    "lay",
    "leaps_of",
    "plan_of",
    "tokens_of",
]

FRAMES_PER_S = 50
GROUP_S = 24.0
GROUP_TOKENS = 160
MAX_TEXT_WORDS = 1500
_MARGIN_FRAMES = 4
_ALTERNATIVES = 6


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a text before anything is heard.

    Attributes:
        text: The text as it is read aloud.
        words: Its words.
        tokens: What the decoder is made to write.
        owners: Word of each token.
    """

    text: SpokenText
    words: tuple[SpokenWord, ...]
    tokens: tuple[int, ...]
    owners: NDArray[np.int64]

    def upto(self, words: int, vocabulary: Vocabulary) -> Plan:
        """Return the plan of the first so many words."""
        kept = self.words[:words]
        tokens, owners = tokens_of(vocabulary, [word.spoken for word in kept])
        return Plan(self.text, kept, tokens, owners)


@dataclass(frozen=True, slots=True)
class Group:
    """Words that the decoder hears at once.

    Attributes:
        words: First word, and the word after the last.
        frames: First frame, and the frame after the last.
    """

    words: tuple[int, int]
    frames: tuple[int, int]


def plan_of(vocabulary: Vocabulary, text: str) -> Plan:
    """Plan a text.

    Raises:
        UsageError: It cannot be read aloud, or is longer than any recording that is taken.
    """
    spoken = speak(text)
    if len(spoken.words) > MAX_TEXT_WORDS:
        raise UsageError(
            f"the text has {len(spoken.words)} words; at most {MAX_TEXT_WORDS} are judged at once",
            hint="judge it paragraph by paragraph",
        )
    tokens, owners = tokens_of(vocabulary, [word.spoken for word in spoken.words])
    return Plan(spoken, tuple(spoken.words), tokens, owners)


def tokens_of(
    vocabulary: Vocabulary, words: Sequence[str]
) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    """Return the tokens of spoken words, written as a sentence, and the word of each."""
    ids: list[int] = []
    owners: list[int] = []
    for index, word in enumerate(words):
        written = "I" + word[1:] if word == "i" or word.startswith("i'") else word
        if index == 0:
            written = written[:1].upper() + written[1:]
        if index == len(words) - 1:
            written += "."
        found = vocabulary.encode(" " + written)
        ids += found
        owners += [index] * len(found)
    return tuple(ids), np.array(owners)


def leaps_of(
    vocabulary: Vocabulary,
    tokens: Sequence[int],
    owners: NDArray[np.int64],
    other: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return whether the decoder would rather write the next word in each one's place, [W].

    Args:
        vocabulary: The decoder's.
        tokens: What it was made to write.
        owners: Word of each.
        other: The likeliest other token in place of each.
    """
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    # Behind the last word stands the full stop.
    following = [*(tokens[at] for at in firsts[1:]), tokens[-1]]

    def plain(token: int) -> str:
        return vocabulary.text([token]).strip().lower()

    pairs = zip((int(other[at]) for at in firsts), following, strict=True)
    return np.array([plain(a) == plain(b) for a, b in pairs], np.float32)


def lay(
    heard: NDArray[np.float32], words: Sequence[SpokenWord], *, whole: bool = True
) -> tuple[Sounds, Alignment] | None:
    """Lay words over frames; of a word's pronunciations the likeliest there is taken.

    Args:
        heard: Log-probabilities of silence and the phones, [T, C].
        words: The words.
        whole: Whether all of them must be there.

    Returns:
        The sounds taken and where they lie; `None` where there are fewer frames than sounds.
    """
    chosen = [word.pronunciations[0] for word in words]
    sounds = classes_of(chosen)
    found = align(heard, sounds.classes.tolist(), sounds.owners.tolist(), whole=whole)
    if found is None:
        return None
    last = int(sounds.owners[len(found.spans) - 1])
    starts = np.flatnonzero(np.diff(sounds.owners, prepend=-1))
    changed = False
    for index, word in enumerate(words[: last + 1]):
        if len(word.pronunciations) == 1:
            continue
        first = int(starts[index])
        end = min(first + len(chosen[index]), len(found.spans)) - 1
        begin = max(int(found.spans[first, 0]) - _MARGIN_FRAMES, 0)
        part = heard[begin : int(found.spans[end, 1]) + _MARGIN_FRAMES]
        best = max(word.pronunciations[:_ALTERNATIVES], key=lambda said: _likelihood(part, said))
        changed |= best != chosen[index]
        chosen[index] = best
    if changed:
        sounds = classes_of(chosen)
        again = align(heard, sounds.classes.tolist(), sounds.owners.tolist(), whole=whole)
        found = again or found
        if again is None:
            sounds = classes_of([word.pronunciations[0] for word in words])
    return sounds, found


def _likelihood(heard: NDArray[np.float32], phones: Sequence[str]) -> float:
    sounds = classes_of([phones])
    found = align(heard, sounds.classes.tolist(), sounds.owners.tolist())
    return -np.inf if found is None else found.score


def groups_of(
    word_spans: NDArray[np.int64], owners: NDArray[np.int64], length: int
) -> tuple[Group, ...]:
    """Split a long reading between words, so that the decoder hears at most `GROUP_S` at once."""
    counts = np.bincount(owners, minlength=len(word_spans))
    groups: list[Group] = []
    first, begin, tokens = 0, 0, 0
    for word, (start, end) in enumerate(word_spans.tolist()):
        is_long = end - begin > GROUP_S * FRAMES_PER_S or tokens + counts[word] > GROUP_TOKENS
        if is_long and word > first:
            cut = (int(word_spans[word - 1, 1]) + start) // 2
            groups.append(Group((first, word), (begin, cut)))
            first, begin, tokens = word, cut, 0
        tokens += int(counts[word])
    groups.append(Group((first, len(word_spans)), (begin, length)))
    return tuple(groups)
