"""What is asked of the language model for one text: the prompt's end and the verdict's script.

Beside the vocabulary's tokens there are slots, tokens whose embeddings come from the audio: slot 0
tells of the whole recording, then one of each word, then one of each phone. Slot k is written as
token vocabulary + k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asa_engine.errors import UsageError
from asa_engine.graders.multi_granular.config import GRAINS, MultiGranularConfig
from asa_engine.graders.multi_granular.script import verdict_script
from asa_engine.graders.multi_granular.verdict import Verdict
from asa_engine.language_model.grammar import Choice, Forced, Free, Segment
from asa_engine.language_model.tokens import TextTokens
from asa_engine.text import PHONES, Lexicon, speak
from asa_engine.text.phones import bare

__all__ = ["Decision", "Plan", "Spoken", "Written", "plan_of", "spoken_words", "write"]

_CLASS = {phone: 1 + index for index, phone in enumerate(PHONES)}


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word and its sounds.

    Attributes:
        text: Small letters and apostrophes.
        phones: ARPAbet without stress, at least one.
        guessed: Whether they come from its letters.
    """

    text: str
    phones: tuple[str, ...]
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """One text, ready to be judged.

    Attributes:
        words: The words and their sounds.
        phones: Every phone, in order, P of them.
        classes: Class of each phone for the phone layer.
        owners: Which word each phone is of.
        before: Tokens between the audio and the verdict, slot 0 last.
        script: What the verdict may be.
    """

    words: tuple[Spoken, ...]
    phones: tuple[str, ...]
    classes: tuple[int, ...]
    owners: tuple[int, ...]
    before: tuple[int, ...]
    script: tuple[Segment, ...]

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return 1 + len(self.words) + len(self.phones)

    @property
    def most_tokens(self) -> int:
        """Most tokens between the audio and the end."""
        return len(self.before) + sum(map(_longest, self.script))


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a label is chosen.

    Attributes:
        position: Index of the token whose hidden state decides.
        grain: One of `GRAINS`.
        label: The label that was written.
        options: First token of each label.
    """

    position: int
    grain: str
    label: int
    options: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A verdict as tokens, as training and references need it.

    Attributes:
        ids: From the token after the audio to the end.
        decisions: The labels.
        free: Index of the token before each token of the rationale, its end included.
    """

    ids: tuple[int, ...]
    decisions: tuple[Decision, ...]
    free: tuple[int, ...]


def _longest(segment: Segment) -> int:
    if isinstance(segment, Forced):
        return len(segment.ids)
    if isinstance(segment, Choice):
        return max(map(len, segment.options))
    return segment.most + 1


def spoken_words(config: MultiGranularConfig, lexicon: Lexicon, text: str) -> tuple[Spoken, ...]:
    """Return the words of a text and their sounds.

    Raises:
        UsageError: The text holds no words, more words or phones than the grader takes, or what
            cannot be read aloud.
    """
    words = tuple(
        Spoken(word.spoken, tuple(map(bare, word.pronunciations[0])), word.source == "letters")
        for word in speak(text, lexicon).words
    )
    phones = sum(len(word.phones) for word in words)
    if len(words) > config.max_words or phones > config.max_phones:
        raise UsageError(
            f"the text has {len(words)} words and {phones} phones; at most {config.max_words} and "
            f"{config.max_phones} are judged at once",
            hint="judge it sentence by sentence",
        )
    return words


def plan_of(config: MultiGranularConfig, tokens: TextTokens, words: Sequence[Spoken]) -> Plan:
    """Return what is asked for these words."""
    vocabulary = config.language_model.vocabulary
    phones = tuple(phone for word in words for phone in word.phones)
    count = len(words) + len(phones)
    script = verdict_script(
        [word.text for word in words],
        phones,
        tokens.encode,
        end_ids=config.end_ids,
        control_ids=config.control_ids,
        most_rationale=config.max_rationale,
        slots=tuple(range(vocabulary + 1, vocabulary + 1 + count)),
    )
    text = tokens.encode(" " + " ".join(word.text for word in words))
    return Plan(
        words=tuple(words),
        phones=phones,
        classes=tuple(_CLASS[phone] for phone in phones),
        owners=tuple(index for index, word in enumerate(words) for _ in word.phones),
        before=(*config.middle_ids, *text, *config.suffix_ids, vocabulary),
        script=script,
    )


def write(plan: Plan, verdict: Verdict, rationale: Sequence[int], end: int) -> Written:
    """Return a verdict as the tokens that the script makes of it.

    Args:
        plan: Of the words that the verdict is about.
        verdict: Its labels.
        rationale: Tokens of the rationale; left out where the script has none.
        end: The token that ends it.
    """
    labels = [verdict.accuracy, verdict.fluency, verdict.prosody]
    labels += [label for _, label in (*verdict.words, *verdict.phones)]
    grains = [*GRAINS[:3], *("word",) * len(plan.words), *("phone",) * len(plan.phones)]
    ids = list(plan.before)
    decisions: list[Decision] = []
    free: list[int] = []
    for segment in plan.script:
        if isinstance(segment, Forced):
            ids += segment.ids
        elif isinstance(segment, Choice):
            at = len(decisions)
            options = tuple(option[0] for option in segment.options)
            decisions.append(Decision(len(ids) - 1, grains[at], labels[at], options))
            ids += segment.options[labels[at]]
        elif isinstance(segment, Free):
            said = [*rationale[: segment.most - 1], end]
            free += range(len(ids) - 1, len(ids) - 1 + len(said))
            ids += said
    return Written(tuple(ids), tuple(decisions), tuple(free))
