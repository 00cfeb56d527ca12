"""What a recogniser that always writes something must not be believed.

Whisper writes sentences over silence, noise and music, and it falls into loops. docs/recogniser.md
says on what the thresholds were measured.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["FATAL", "REASONS", "Doubts", "compression_ratio", "loop_start"]

REASONS: Final = ("no_words", "hallucination", "not_english", "repetition")
# With one of these there is nothing to score.
FATAL: Final = REASONS[:3]


@dataclass(frozen=True, slots=True)
class Doubts:
    """What the decoder says of the words of one window.

    Attributes:
        log_probability: Mean over the tokens.
        no_speech: Probability that nobody speaks.
        english: Probability that the language is English; 1 where the model knows no other.
    """

    log_probability: float
    no_speech: float
    english: float = 1.0

    def is_silence(self) -> bool:
        """Return whether the words are to be dropped as written over silence."""
        return self.no_speech > SURELY_NO_SPEECH or (
            self.no_speech > NO_SPEECH_PROBABILITY
            and self.log_probability < NO_SPEECH_LOG_PROBABILITY
        )

    def reasons(self, words: Sequence[str], speech_s: float) -> tuple[str, ...]:
        """Return which of `REASONS` to doubt the window's words there are.

        Args:
            words: The words, the rounds of a loop taken out.
            speech_s: Seconds of speech that they were heard in.
        """
        reasons = []
        if words and (
            self.log_probability - NO_SPEECH_WEIGHT * self.no_speech < MIN_CERTAINTY
            or compression_ratio(" ".join(words)) > MAX_COMPRESSION_RATIO
            or len(words) > 2 + MAX_WORDS_PER_SPEECH_S * speech_s
        ):
            reasons.append("hallucination")
        if words and self.english < ENGLISH_PROBABILITY:
            reasons.append("not_english")
        return tuple(reasons)


# Whisper's own rule for a window without speech.
NO_SPEECH_PROBABILITY: Final = 0.6
NO_SPEECH_LOG_PROBABILITY: Final = -1.0
# No learner comes near this; over noise, loops are written with great confidence.
SURELY_NO_SPEECH: Final = 0.9
# Words are guesses where log-probability - NO_SPEECH_WEIGHT * no-speech probability is below this.
NO_SPEECH_WEIGHT: Final = 4.0
MIN_CERTAINTY: Final = -2.5
# zlib takes English sentences to 0.9 of themselves or more when short, loops to a third.
MAX_COMPRESSION_RATIO: Final = 2.4
# Nobody speaks faster; the fastest learner reads four words a second.
MAX_WORDS_PER_SPEECH_S: Final = 8.0
# Learners' accents take half of their English from a multilingual model; few fall below this.
ENGLISH_PROBABILITY: Final = 0.07


def compression_ratio(text: str) -> float:
    """Return by which factor zlib shortens a text; 0 for none."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


LOOP_REPEATS: Final = 4
_MAX_PERIOD: Final = 12


def loop_start(words: Sequence[str]) -> int | None:
    """Return where the second round of a loop begins that runs to the end, or `None`.

    A loop is the same one to twelve words, `LOOP_REPEATS` times or more in a row.
    """
    plain = [word.strip(".,!?").lower() for word in words]
    for period in range(1, _MAX_PERIOD + 1):
        same = 0
        while same < len(plain) - period and plain[-1 - same] == plain[-1 - same - period]:
            same += 1
        if same >= (LOOP_REPEATS - 1) * period:
            return len(plain) - same
    return None
