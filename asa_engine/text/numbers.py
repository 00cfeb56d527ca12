"""Numbers in words, by num2words."""

from __future__ import annotations

import re
from typing import Final

from asa_engine.errors import UsageError

__all__ = ["cardinal", "decade", "digits", "fraction", "number", "ordinal", "plural", "year"]

_MOST_CARDINAL_DIGITS: Final = 15
_MOST_DIGITS: Final = 40
_NAMES: Final = "zero one two three four five six seven eight nine".split()
_APART: Final = re.compile(r"[-,\s]+")
_IRREGULAR: Final = {"half": "halves", "foot": "feet", "inch": "inches", "hertz": "hertz"}


def cardinal(value: int) -> str:
    """Return a whole number in words: 1234, one thousand two hundred and thirty four."""
    return _words(value, "cardinal")


def ordinal(value: int) -> str:
    """Return a number's place in words: 21, twenty first."""
    return _words(value, "ordinal")


def year(value: int) -> str:
    """Return a year in words: 1999, nineteen ninety nine."""
    return _words(value, "year")


def digits(written: str) -> str:
    """Return digits one by one, whatever stands between them."""
    return " ".join(_NAMES[int(digit)] for digit in written if digit.isdigit())


def decade(value: int) -> str:
    """Return a number in the plural, from 1000 on as years: nineteen nineties, eighties."""
    *before, last = (year(value) if value >= 1000 else cardinal(value)).split()
    last = last[:-1] + "ies" if last.endswith("y") else last + ("es" if last == "six" else "s")
    return " ".join((*before, last))


def fraction(above: int, below: int) -> str:
    """Return a fraction in words: 3/4, three quarters."""
    name = {2: "half", 4: "quarter"}.get(below) or ordinal(below)
    return f"{cardinal(above)} {name if above == 1 else plural(name)}"


def number(written: str) -> str:
    """Return a number in words, as it is written: 1,234.50 or .5 or 007.

    Raises:
        UsageError: It has more digits than anybody reads.
    """
    whole, point, rest = written.replace(",", "").partition(".")
    if len(whole) + len(rest) > _MOST_DIGITS:
        raise UsageError(
            f"the text holds a number of {len(whole) + len(rest)} digits",
            hint=f"write it as it is read, or leave it out; at most {_MOST_DIGITS} digits are read",
        )
    if len(whole) > _MOST_CARDINAL_DIGITS or (whole.startswith("0") and len(whole) > 1):
        said = digits(whole)
    else:
        said = cardinal(int(whole)) if whole else ""
    return f"{said} point {digits(rest)}".strip() if point and rest else said


def plural(name: str) -> str:
    """Return the plural of a unit's or a fraction's name: miles per hour, twenty firsts."""
    first, *others = name.split(" ")
    if others and others[0] not in ("per", "Celsius", "Fahrenheit"):
        return f"{first} {plural(' '.join(others))}"
    first = _IRREGULAR.get(first) or first + "s"
    return " ".join((first, *others))


def _words(value: int, kind: str) -> str:
    from num2words import num2words  # late: only texts with numbers need it

    return _APART.sub(" ", num2words(value, to=kind)).strip()
