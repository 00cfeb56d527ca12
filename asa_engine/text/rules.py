"""What is read in words of its own: numbers, dates, money, units, addresses, abbreviations.

Rules are tried in the order of `RULES`; the first that answers decides. A rule takes the match of
its pattern and returns the words that are read, or `None` where it does not apply after all.
Where English is ambiguous the reading is the American one: 5/1/2024 is May first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from asa_engine.text import numbers as say
from asa_engine.text.abbreviations import (
    BEFORE_NUMBERS,
    CURRENCIES,
    CURRENCY_CODES,
    DOTTED,
    MAGNITUDES,
    MONTHS,
    TITLES,
    UNITS,
    WEEKDAYS,
)
from asa_engine.text.dictionary import dictionary

__all__ = ["NUMBERED", "RULES", "Rule"]

Match = re.Match[str]
Rule = Callable[[Match], str | None]

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_MONTH_NAMES = {**MONTHS, **{name: name for name in MONTHS.values()}}
_MONTH = "|".join(sorted((n.capitalize() for n in _MONTH_NAMES), key=len, reverse=True))
_MAGNITUDE = "|".join(sorted(MAGNITUDES, key=len, reverse=True))
_UNIT = "|".join(re.escape(unit) for unit in sorted(UNITS, key=len, reverse=True))
_SIGN = "[" + "".join(CURRENCIES) + "]"
_CODE = "|".join(re.escape(code) for code in sorted(CURRENCY_CODES, key=len, reverse=True))
_END = r"(?![A-Za-z0-9])"
_DOMAINS = "com|org|net|edu|gov|info|io|ai|app|dev|tv|co|uk|eu|de|fr|ca|au|cn"

_NAMES: Final = {
    ".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", ":": "colon",
    "?": "question mark", "=": "equals", "&": "and", "#": "hash", "%": "percent", "+": "plus",
    "~": "tilde", ",": "comma", "!": "exclamation mark",
}  # fmt: skip
"""Characters of addresses."""
_YEAR_WORDS: Final = frozenset(
    "in since by until till from year before after during around circa of late early mid spring "
    "summer autumn fall winter between to and".split()
)
_KING: Final = re.compile(r"[A-Z][a-z]+$")
NUMBERED: Final = frozenset(
    "chapter part act scene section volume book war type phase stage class figure table title "
    "article appendix grade level unit lesson round bowl".split()
)


def _address(written: str) -> str:
    """Return an address, its punctuation by name."""
    said = []
    for part in re.findall(r"[A-Za-z]+|[0-9]+|.", written):
        if not part.isascii():
            return ""
        if part.isalpha():
            said.append(_name(part))
        elif part.isdigit():
            said.append(say.number(part) if len(part) <= 4 else say.digits(part))
        elif part in _NAMES:
            said.append(_NAMES[part])
        else:
            return ""
    return " ".join(said)


def _name(letters: str) -> str:
    """Return letters as a word if they look like one, else one by one."""
    lowered = letters.lower()
    wordlike = lowered in dictionary() and (len(letters) > 2 or letters.islower())
    if len(letters) > 3 and not letters.isupper() and re.search("[aeiouy]", lowered):
        wordlike = True
    return lowered if wordlike and len(letters) > 1 else " ".join(lowered)


def _url(match: Match) -> str:
    return _address(re.sub(r"^https?://", "", match[0]))


def _time(match: Match) -> str | None:
    hour, minute, half = int(match["h"]), int(match["m"] or 0), (match["half"] or "").lower()
    if hour > 24 or minute > 59 or (half and not 1 <= hour <= 12):
        return None
    if not half and match["m"] is None:
        return None
    seconds = f" and {say.cardinal(int(match['s']))} seconds" if match["s"] else ""
    tail = f" {half} m" if half else ""
    if minute:
        said = f"{say.cardinal(hour)} {'oh ' if minute < 10 else ''}{say.cardinal(minute)}"
    elif half or seconds:
        said = say.cardinal(hour)
    else:
        said = f"{say.cardinal(hour)} {'o' + chr(39) + 'clock' if 1 <= hour <= 12 else 'hundred'}"
    return said + seconds + tail


def _ratio(match: Match) -> str:
    return f"{say.number(match[1])} to {say.number(match[2])}"


def _day(written: str) -> str | None:
    return say.ordinal(int(written)) if 1 <= int(written) <= 31 else None


def _year(written: str | None) -> str:
    return f" {say.year(int(written))}" if written else ""


def _month_first(match: Match) -> str | None:
    month, day = _MONTH_NAMES[match["month"].lower()], _day(match["day"])
    return day and f"{month} {day}{_year(match['year'])}"


def _day_first(match: Match) -> str | None:
    month, day = _MONTH_NAMES[match["month"].lower()], _day(match["day"])
    article = "" if re.search(r"\bthe +$", match.string[: match.start()], re.I) else "the "
    return day and f"{article}{day} of {month}{_year(match['year'])}"


def _month_and_year(match: Match) -> str:
    return _MONTH_NAMES[match["month"].lower()] + _year(match["year"])


def _numeric_date(match: Match) -> str | None:
    first, second, year = int(match[1]), int(match[3]), match[4]
    month, day = (second, first) if first > 12 else (first, second)
    return _written_date(month, day, year)


def _iso_date(match: Match) -> str | None:
    return _written_date(int(match[2]), int(match[3]), match[1])


def _written_date(month: int, day: int, year: str) -> str | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    names = list(dict.fromkeys(MONTHS.values()))
    shown = say.year(int(year)) if len(year) == 4 else say.number(year)
    return f"{names[month - 1]} {say.ordinal(day)} {shown}"


def _money(match: Match) -> str | None:
    written, large = match["n"], match["large"]
    name, part = CURRENCIES.get(match["sign"]) or (CURRENCY_CODES[match["sign"]], "cent")
    whole, _, cents = written.replace(",", "").partition(".")
    if large:
        return f"{say.number(written)} {MAGNITUDES[large]} {_plural_money(name)}"
    if len(cents) == 2 and part:
        parts = f"{say.number(str(int(cents)))} {_parts(part, int(cents))}"
        if not int(whole or 0):
            return parts if int(cents) else f"zero {_plural_money(name)}"
        said = f"{say.number(whole)} {name if int(whole) == 1 else _plural_money(name)}"
        return f"{said} and {parts}" if int(cents) else said
    one = written == "1"
    return f"{say.number(written)} {name if one else _plural_money(name)}"


def _plural_money(name: str) -> str:
    return name if name in ("yen", "yuan", "won") else name + "s"


def _parts(part: str, count: int) -> str:
    if part == "pence":
        return "penny" if count == 1 else "pence"
    return part if count == 1 or part == "paisa" else part + "s"


def _phone_number(match: Match) -> str | None:
    written = match[0]
    if not 7 <= sum(map(str.isdigit, written)) <= 15:
        return None
    return ("plus " if written.startswith("+") else "") + say.digits(written)


def _fraction(match: Match) -> str | None:
    whole, above, below = match[1], int(match[2]), int(match[3])
    if match[0] in _TWO_NUMBERS or not 1 <= above < below <= 100:
        return (
            f"{say.number(match[2])} {say.number(match[3])}" if match[0] in _TWO_NUMBERS else None
        )
    said = say.fraction(above, below)
    if not whole:
        return said
    return f"{say.number(whole.strip())} and {'a half' if said == 'one half' else said}"


_TWO_NUMBERS: Final = frozenset(("24/7", "9/11"))


def _feet(match: Match) -> str:
    return f"{say.number(match[1])} foot {say.number(match[2])}"


def _version(match: Match) -> str:
    parts = [say.number(part) for part in (match[2] or match[4]).split(".")]
    return ("v " if match[1] else "") + " point ".join(parts)


def _unit(match: Match) -> str:
    power = {"\u00b2": "square ", "\u00b3": "cubic ", None: ""}[match["power"]]
    name = UNITS[match["unit"]]
    one = match["n"] == "1" or match["space"] == "-"
    return f"{_signed(match)} {power}{name if one else say.plural(name)}"


def _signed(match: Match) -> str:
    sign = {"-": "minus ", "+": "plus ", "\u00b1": "plus or minus "}.get(match["sign"] or "", "")
    return sign + say.number(match["n"])


def _percent(match: Match) -> str:
    return f"{_signed(match)} {'per mille' if match['mark'] == chr(0x2030) else 'percent'}"


def _decade(match: Match) -> str | None:
    return say.decade(int(match[1]))


def _year_or_number(match: Match) -> str:
    """Return a number, in the way of years where it is one by what stands around it."""
    written, text = match["n"], match.string
    if match["large"]:
        return f"{_signed(match)} {MAGNITUDES[match['large']]}"
    if re.fullmatch(r"1[1-9]\d\d|20\d\d", written) and not match["sign"]:
        before = re.search(r"([A-Za-z]+)[ ,]+$|(\d{4})[-\u2013]$", text[: match.start()])
        range_ = re.match(r" ?[-\u2013] ?\d{2}(?:\d\d)?(?!\d)", text[match.end() :])
        if range_ or (before and (before[2] or before[1].lower() in _YEAR_WORDS)):
            return say.year(int(written))
    return _signed(match)


def _roman(match: Match) -> str | None:
    value = _roman_value(match[2])
    if value is None:
        return None
    before = match.string[: match.start()].rstrip().rpartition(" ")[2]
    if before.lower() in NUMBERED:
        return say.cardinal(value)
    if len(match[2]) > 1 and _KING.fullmatch(before) and value <= 40:
        return f"the {say.ordinal(value)}"
    return None


def _roman_value(written: str) -> int | None:
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
    found = [values[letter] for letter in written]
    total = sum(-v if v < max(found[i + 1 :], default=0) else v for i, v in enumerate(found))
    return total if _roman_numeral(total) == written else None


def _roman_numeral(value: int) -> str:
    found = ""
    for mark, worth in (
        ("C", 100), ("XC", 90), ("L", 50), ("XL", 40), ("X", 10), ("IX", 9), ("V", 5), ("IV", 4),
        ("I", 1),
    ):  # fmt: skip
        found += mark * (value // worth)
        value %= worth
    return found


def _initials(match: Match) -> str:
    letters = match[0].replace(".", "").lower()
    return DOTTED.get(match[0].lower().rstrip(".")) or " ".join(letters)


def _abbreviation(match: Match) -> str | None:
    lowered = match[1].lower()
    return DOTTED.get(lowered) or (match[1][0].isupper() and WEEKDAYS.get(lowered)) or None


def _month_alone(match: Match) -> str | None:
    return MONTHS.get(match[1].lower()) if match[1].lower() != "may" else None


def _saint_or_street(match: Match) -> str:
    before = match.string[: match.start()].rstrip().rpartition(" ")[2]
    return "street" if re.fullmatch(r"[A-Z][a-z]+|\d+(?:st|nd|rd|th)", before) else "saint"


def _letters_and_digits(match: Match) -> str:
    said = []
    for part in re.findall(r"[A-Za-z]+|\d+", match[0]):
        if part.isdigit():
            said.append(say.digits(part) if len(part) > 2 else say.number(part))
        else:
            said.append(_name(part) if part.islower() else " ".join(part))
    return " ".join(said)


def _title(match: Match) -> str | None:
    return TITLES.get(match[1].lower())


def _before_number(match: Match) -> str | None:
    return BEFORE_NUMBERS.get(match[1].lower())


def _always(said: str) -> Rule:
    return lambda _: said


_PHONE = (
    r"(?:\+\d{1,3}(?:[ -]?\(?\d{2,4}\)?){2,5}|\d{3}-\d{4}|\(?\d{3}\)?[ -]\d{3}[ -]\d{4}"
    r"|0\d{2,4}[ -]\d{3,4}[ -]?\d{3,4})(?![\d-]|[,.]\d|[A-Za-z])"
)
_URL = r"[!#-;=?-~]"  # what is printed in ASCII, but for quotes and angle brackets
_URL_END = r"[#-&(*+/-9=@-~-]"  # and for what ends a sentence
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_AND_YEAR = r"(?:,? (?P<year>1\d{3}|20\d\d)(?![\d:]))?"
_HALF = r"(?P<half>[AaPp])\.?[Mm](?:\.(?! [A-Z]|$)|(?![A-Za-z]))"
_N = rf"(?P<sign>(?<![A-Za-z0-9])[-+\u00b1])?(?P<n>{_NUMBER})"

RULES: Final[tuple[tuple[str, str, Rule], ...]] = (
    ("e-mail", r"[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", lambda m: _address(m[0])),
    ("url", rf"(?:https?://|www\.){_URL}*{_URL_END}", _url),
    ("url", rf"(?:[A-Za-z0-9-]+\.)+(?:{_DOMAINS}){_END}(?:/(?:{_URL}*{_URL_END})?)?", _url),
    ("date", r"(\d{4})-(\d\d)-(\d\d)(?!\d)", _iso_date),
    ("date", r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d\d)(?![\d/-])", _numeric_date),
    ("date", rf"(?P<month>{_MONTH})\.? {_DAY}(?![\d:]|,\d){_AND_YEAR}{_END}", _month_first),
    ("date", rf"{_DAY}(?: of)? (?P<month>{_MONTH}){_END}\.?{_AND_YEAR}", _day_first),
    ("date", rf"(?P<month>{_MONTH})\.?,? (?P<year>1\d{{3}}|20\d\d){_END}", _month_and_year),
    ("time", rf"(?P<h>\d{{1,2}}):(?P<m>\d\d)(?::(?P<s>\d\d))? ?(?:{_HALF})?(?![\d:])", _time),
    ("time", rf"(?P<h>\d{{1,2}})(?P<m>(?!))?(?P<s>(?!))? ?{_HALF}", _time),
    ("ratio", r"(\d+):(\d+)(?![\d:])", _ratio),
    (
        "currency",
        rf"(?P<sign>{_CODE}|{_SIGN}) ?(?P<n>{_NUMBER})(?: ?(?P<large>{_MAGNITUDE}))?{_END}",
        _money,
    ),
    (
        "currency",
        rf"(?P<n>{_NUMBER})(?: ?(?P<large>{_MAGNITUDE}))? ?(?P<sign>(?:{_CODE}){_END}|{_SIGN})",
        _money,
    ),
    ("number", _PHONE, _phone_number),
    ("fraction", rf"(\d+ )?(\d{{1,3}})/(\d{{1,3}})(?![\d/]){_END}", _fraction),
    ("number", r"([vV])(\d+(?:\.\d+)+)(?![\d.])|()(\d+(?:\.\d+){2,})(?!\d)", _version),
    ("unit", r"(\d)'(\d{1,2})\"", _feet),
    ("percent", rf"{_N} ?(?P<mark>[%\u2030])", _percent),
    ("ordinal", rf"(?P<n>\d+)(?:st|nd|rd|th){_END}", lambda m: say.ordinal(int(m["n"][:15]))),
    ("decade", rf"'?(\d{{1,4}})'?s{_END}", _decade),
    (
        "unit",
        rf"{_N}(?P<space>[ -]?)(?P<unit>{_UNIT})(?P<power>[\u00b2\u00b3])?{_END}(?!')",
        _unit,
    ),
    ("letters", rf"(?:[A-Za-z]+\d+|\d+[A-Za-z])[A-Za-z0-9]*{_END}", _letters_and_digits),
    (
        "number",
        rf"{_N}(?: (?P<large>hundred|thousand|million|billion|trillion){_END})?{_END}",
        _year_or_number,
    ),
    ("number", r"([A-Za-z]+)\.(?= ?\d)", _before_number),
    ("roman", r"()([IVXLC]+)(?![A-Za-z0-9'.]|\.[A-Za-z])", _roman),
    (
        "abbreviation",
        r"(?:[A-Za-z]\.){2,}(?:[A-Za-z](?![A-Za-z]))?|[A-Za-z](?:\.[A-Za-z])+(?![A-Za-z])",
        _initials,
    ),
    ("abbreviation", rf"([A-Za-z]+){_END}\.?", _title),
    ("abbreviation", r"St\.(?= |$)", _saint_or_street),
    ("abbreviation", r"([A-Za-z]+|[Pp]h\.[Dd])\.", _abbreviation),
    ("abbreviation", r"([A-Z][a-z]{2,3})\.", _month_alone),
    ("symbol", r"&", _always("and")),
    ("symbol", r"@(?=[A-Za-z])", _always("at")),
    ("symbol", r"#(?=\d)", _always("number")),
    ("symbol", r"#(?=[A-Za-z])", _always("hashtag")),
    ("symbol", r"%", _always("percent")),
    ("symbol", r"\u2030", _always("per mille")),
    ("symbol", r"\u00a7 ?(?=\d)", _always("section")),
    ("symbol", r"~(?= ?\d)", _always("about")),
    ("symbol", r"\+", _always("plus")),
    ("symbol", r"=", _always("equals")),
    ("symbol", r"<(?= ?\d)", _always("less than")),
    ("symbol", r">(?= ?\d)", _always("greater than")),
    ("symbol", r"\u00d7", _always("times")),
    ("symbol", r"(?<=\d)\*(?=\d)", _always("times")),
    ("symbol", r"\u00f7", _always("divided by")),
    ("symbol", r"\u00b2", _always("squared")),
    ("symbol", r"\u00b3", _always("cubed")),
    ("symbol", r"\u00b0", _always("degrees")),
    ("range", r"(?<=\d)[-\u2013](?=\d)|(?<=\d )\u2013(?= \d)", _always("to")),
    ("symbol", r"(?<=\d)/(?=\d)", _always("slash")),
)
