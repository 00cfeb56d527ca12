"""Assessments in the form of Azure's Pronunciation Assessment, for programs that read that.

The names and units are those of Microsoft's documentation, "Use pronunciation assessment" (the
detailed result of scripted assessment, HundredMark, granularity Phoneme, IPA). The scores are
ours, on a scale of 0 to 100: they were not fitted to Azure's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from asa_engine.assessment import Assessment, Phone, Score, Word
from asa_engine.formats.shares import share, word_score
from asa_engine.text import syllables
from asa_engine.text.phones import VOWELS, bare, phone_ipa

__all__ = ["to_azure"]

_TICKS_PER_S: Final = 10_000_000
_ASPECTS: Final = {
    "accuracy": "AccuracyScore",
    "fluency": "FluencyScore",
    "completeness": "CompletenessScore",
    "prosodic": "ProsodyScore",
    "prosody": "ProsodyScore",
    "total": "PronScore",
}
_ERRORS: Final = {
    "none": "None",
    "mispronunciation": "Mispronunciation",
    "omission": "Omission",
    "insertion": "Insertion",
    "repetition": "Insertion",  # Azure knows no repetitions
}


def to_azure(result: Assessment) -> dict[str, Any]:
    """Return an assessment as Azure's detailed JSON result.

    Times are in ticks of 100 ns. A recording that cannot be scored has the status "NoMatch".
    """
    told = [word for word in result.words if word.start_s is not None and word.end_s is not None]
    start = min((_ticks(word.start_s) for word in told), default=0)
    end = max((_ticks(word.end_s) for word in told), default=_ticks(result.timing.audio_s))
    scored = result.validity.scorable and bool(result.scores)
    found: dict[str, Any] = {
        "Id": str(result.receipt.get("audio_sha256", ""))[:32],
        "RecognitionStatus": "Success" if scored else "NoMatch",
        "Offset": start,
        "Duration": end - start,
        "Channel": 0,
    }
    if result.validity.snr_db is not None:
        found["SNR"] = result.validity.snr_db
    if not scored:
        return found
    said = " ".join(_name(word) for word in result.words if word.error != "omission")
    display = result.transcript if result.transcript is not None else said
    best: dict[str, Any] = {
        "Lexical": said.lower(),
        "ITN": said.lower(),
        "MaskedITN": said.lower(),
        "Display": display,
        "PronunciationAssessment": {
            _ASPECTS[name]: _hundred(score)
            for name, score in result.scores.items()
            if name in _ASPECTS
        },
    }
    if result.words:
        best["Words"] = [_word(word) for word in result.words]
    return {**found, "DisplayText": display, "NBest": [best]}


def _word(word: Word) -> dict[str, Any]:
    judged: dict[str, Any] = {}
    if (score := word_score(word)) is not None:
        judged["AccuracyScore"] = _hundred(score)
    judged["ErrorType"] = _ERRORS[word.error or "none"]
    return {
        "Word": _name(word),
        **_times(word),
        "PronunciationAssessment": judged,
        "Syllables": [_syllable(part) for part in _syllables(word.phones)],
        "Phonemes": [_phoneme(phone) for phone in word.phones],
    }


def _name(word: Word) -> str:
    return word.spoken or word.text


def _syllables(phones: Sequence[Phone]) -> list[Sequence[Phone]]:
    """Split phones into syllables, where their symbols are ARPAbet; else they are one."""
    symbols = [phone.phone for phone in phones]
    if not any(bare(symbol) in VOWELS for symbol in symbols):
        return [phones] if phones else []
    ends, at = [], 0
    for part in syllables(symbols):
        ends.append((at, at + len(part)))
        at += len(part)
    return [phones[start:end] for start, end in ends]


def _syllable(phones: Sequence[Phone]) -> dict[str, Any]:
    scores = [value for phone in phones if (value := share(phone.score)) is not None]
    judged = {"AccuracyScore": round(100 * sum(scores) / len(scores), 1)} if scores else {}
    whole = Phone("", start_s=phones[0].start_s, end_s=phones[-1].end_s)
    return {
        "Syllable": "".join(_symbol(phone) for phone in phones),
        **_times(whole),
        "PronunciationAssessment": judged,
    }


def _phoneme(phone: Phone) -> dict[str, Any]:
    judged: dict[str, Any] = {}
    if phone.score is not None:
        judged["AccuracyScore"] = _hundred(phone.score)
    if phone.heard is not None:
        # Azure's scores are relative to the likeliest sound's: that one has 100.
        judged["NBestPhonemes"] = [{"Phoneme": phone_ipa(phone.heard), "Score": 100.0}]
    return {"Phoneme": _symbol(phone), **_times(phone), "PronunciationAssessment": judged}


def _symbol(phone: Phone) -> str:
    return phone.ipa if phone.ipa is not None else phone_ipa(phone.phone)


def _times(item: Word | Phone) -> dict[str, int]:
    if item.start_s is None or item.end_s is None:
        return {}
    start = _ticks(item.start_s)
    return {"Offset": start, "Duration": _ticks(item.end_s) - start}


def _ticks(seconds: float | None) -> int:
    return round((seconds or 0.0) * _TICKS_PER_S)


def _hundred(score: Score) -> float:
    value = share(score)
    return round(100 * value, 1) if value is not None else 0.0
