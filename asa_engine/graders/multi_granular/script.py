"""The grammar of a verdict (system S5): labels are chosen, words, phones and lines are given.

Text around labels and labels themselves are tokenised apart from each other, so that what may be
chosen never depends on what stands beside it; a model that is to be decoded so has to be trained
on the same pieces.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from asa_engine.graders.multi_granular.verdict import LABELS, Verdict
from asa_engine.language_model.grammar import Choice, Forced, Free, Segment

__all__ = ["label_choice", "verdict_of_choices", "verdict_script"]

_SENTENCE = ("Accuracy:", "\nFluency:", "\nProsody:")
_LISTS = ("\nWords: ", "\nPhonemes: ")

Encode = Callable[[str], tuple[int, ...]]


def verdict_script(
    words: Sequence[str],
    phones: Sequence[str],
    encode: Encode,
    *,
    end_ids: tuple[int, ...],
    control_ids: tuple[int, ...] = (),
    most_rationale: int = 0,
    slots: Sequence[int] = (),
) -> tuple[Segment, ...]:
    """Return the script of a verdict on these words and phones.

    Args:
        words: The words to judge, in order.
        phones: The phones, in order.
        encode: Text to tokens; control tokens written in the text must stay plain text.
        end_ids: Tokens that end the rationale.
        control_ids: Tokens that the rationale may not hold; those of `end_ids` may end it.
        most_rationale: Most tokens of the rationale; 0 leaves it out.
        slots: One token for each word, then for each phone, to stand right before its label;
            empty for none.

    Raises:
        ValueError: A word or phone is empty or holds a space, two labels are the same tokens, or
            there are not as many slots as words and phones.
    """
    for text in (*words, *phones):
        if not text or len(text.split()) != 1 or text != text.strip():
            raise ValueError(f"{text[:40]!r} is not one word: it cannot be judged")
    if slots and len(slots) != len(words) + len(phones):
        raise ValueError(f"{len(slots)} slots do not make {len(words)} words, {len(phones)} phones")
    remaining = iter(slots)
    shared, spaced = label_choice(encode, " ")
    shared_bare, bare = label_choice(encode, "")
    script: list[Segment] = []
    for line in _SENTENCE:
        script += [Forced((*encode(line), *shared)), spaced]
    for line, items in zip(_LISTS, (words, phones), strict=True):
        if not items:
            script.append(Forced(encode(line)))
        for index, text in enumerate(items):
            before = encode(f"{' ' if index else line}{text}/")
            slot = itertools.islice(remaining, 1)
            script += [Forced((*before, *slot, *shared_bare)), bare]
    if most_rationale:
        banned = tuple(token for token in control_ids if token not in end_ids)
        script += [Forced(encode("\n")), Free(end_ids, most_rationale, banned)]
    return tuple(script)


def label_choice(encode: Encode, space: str) -> tuple[tuple[int, ...], Choice]:
    """Return the tokens that all labels begin with, and the choice between what follows.

    Args:
        encode: Text to tokens.
        space: What stands before a label: where it is a space it belongs to the label, as
            tokenizers cut.

    Raises:
        ValueError: Two labels are the same tokens, or begin alike where not all do.
    """
    options = tuple(encode(f"{space}{label}") for label in LABELS)
    alike = [len(set(tokens)) == 1 for tokens in zip(*options, strict=False)]
    shared = [*alike, False].index(False)
    choice = Choice(tuple(option[shared:] for option in options))
    if len({option[0] for option in choice.options}) < len(LABELS):
        raise ValueError("labels begin with the same token: it does not tell them apart")
    return options[0][:shared], choice


def verdict_of_choices(
    chosen: Sequence[int], words: Sequence[str], phones: Sequence[str], rationale: str = ""
) -> Verdict:
    """Return the verdict that a finished walk's choices make.

    Args:
        chosen: `Walk.chosen`.
        words: As given to `verdict_script`.
        phones: As given to `verdict_script`.
        rationale: The free text.

    Raises:
        ValueError: There are not as many choices as the script has.
    """
    if len(chosen) != len(_SENTENCE) + len(words) + len(phones):
        raise ValueError(f"{len(chosen)} choices do not make this verdict")
    accuracy, fluency, prosody, *rest = chosen
    return Verdict(
        accuracy,
        fluency,
        prosody,
        words=tuple(zip(words, rest[: len(words)], strict=True)),
        phones=tuple(zip(phones, rest[len(words) :], strict=True)),
        rationale=rationale.strip(),
    )
