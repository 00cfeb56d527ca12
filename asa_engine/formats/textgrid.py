"""Words and sounds as a TextGrid of Praat's, in its long text form.

P. Boersma and D. Weenink, Praat manual, "TextGrid file formats".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asa_engine.assessment import Assessment, Score
from asa_engine.formats.shares import word_score

__all__ = ["to_textgrid"]


@dataclass(frozen=True, slots=True)
class _Interval:
    start_s: float
    end_s: float
    text: str


def to_textgrid(result: Assessment) -> str:
    """Return the words and sounds of an assessment as a TextGrid.

    Its tiers: `words`, `phones` (the grader's symbols), `ipa`, `heard`, `word scores`,
    `phone scores`, `errors`, and `omitted`, points where words of the text were left out. Tiers
    that would be empty are left out, but for the first two.
    """
    length_s = max(result.timing.audio_s, 1e-3)
    words = [word for word in result.words if word.start_s is not None and word.end_s is not None]
    phones = [phone for word in words for phone in word.phones]

    def of_words(texts: Iterable[str | None]) -> list[_Interval]:
        return _laid(((w.start_s, w.end_s) for w in words), texts, length_s)

    def of_phones(texts: Iterable[str | None]) -> list[_Interval]:
        return _laid(((p.start_s, p.end_s) for p in phones), texts, length_s)

    tiers = {
        "words": of_words(word.spoken or word.text for word in words),
        "phones": of_phones(phone.phone for phone in phones),
        "ipa": of_phones(phone.ipa for phone in phones),
        "heard": of_phones(phone.heard for phone in phones),
        "word scores": of_words(_number(word_score(word)) for word in words),
        "phone scores": of_phones(_number(phone.score) for phone in phones),
        "errors": of_words(word.error for word in words),
    }
    kept = {
        name: intervals
        for name, intervals in tiers.items()
        if name in ("words", "phones") or any(interval.text for interval in intervals)
    }
    omitted = _omitted(result, length_s)
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {_seconds(length_s)}",
        "tiers? <exists>",
        f"size = {len(kept) + bool(omitted)}",
        "item []:",
    ]
    for place, (name, intervals) in enumerate(kept.items(), 1):
        lines += _head(place, "IntervalTier", name, length_s)
        lines.append(f"        intervals: size = {len(intervals)}")
        for number, interval in enumerate(intervals, 1):
            lines += [
                f"        intervals [{number}]:",
                f"            xmin = {_seconds(interval.start_s)}",
                f"            xmax = {_seconds(interval.end_s)}",
                f"            text = {_quoted(interval.text)}",
            ]
    if omitted:
        lines += _head(len(kept) + 1, "TextTier", "omitted", length_s)
        lines.append(f"        points: size = {len(omitted)}")
        for number, (time_s, text) in enumerate(omitted, 1):
            lines += [
                f"        points [{number}]:",
                f"            number = {_seconds(time_s)}",
                f"            mark = {_quoted(text)}",
            ]
    return "\n".join(lines) + "\n"


def _laid(
    spans: Iterable[tuple[float | None, float | None]],
    texts: Iterable[str | None],
    length_s: float,
) -> list[_Interval]:
    """Return intervals that cover the recording without a gap, empty ones between the given."""
    found: list[_Interval] = []
    at = 0.0
    for (start_s, end_s), text in zip(spans, texts, strict=True):
        if start_s is None or end_s is None:
            continue
        start_s, end_s = max(start_s, at), min(end_s, length_s)
        if _seconds(start_s) == _seconds(end_s) or end_s < start_s:
            continue  # Praat has no intervals without length
        if _seconds(start_s) != _seconds(at):
            found.append(_Interval(at, start_s, ""))
        found.append(_Interval(start_s, end_s, text or ""))
        at = end_s
    if not found or _seconds(at) != _seconds(length_s):
        found.append(_Interval(at, length_s, ""))
    return found


def _omitted(result: Assessment, length_s: float) -> Sequence[tuple[float, str]]:
    """Return where words without a place would stand: behind the word before them."""
    found: dict[float, list[str]] = {}
    at = 0.0
    for word in result.words:
        if word.end_s is None:
            found.setdefault(min(at, length_s), []).append(word.spoken or word.text)
        else:
            at = word.end_s
    return [(time_s, " ".join(texts)) for time_s, texts in sorted(found.items())]


def _head(place: int, kind: str, name: str, length_s: float) -> list[str]:
    return [
        f"    item [{place}]:",
        f'        class = "{kind}"',
        f'        name = "{name}"',
        "        xmin = 0",
        f"        xmax = {_seconds(length_s)}",
    ]


def _seconds(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _number(score: Score | None) -> str | None:
    return None if score is None else f"{score.value:.2f}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""').replace("\n", " ") + '"'
