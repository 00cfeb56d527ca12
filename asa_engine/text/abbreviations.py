"""What abbreviations, units and currencies stand for."""

from __future__ import annotations

from typing import Final

__all__ = [
    "BEFORE_NUMBERS",
    "CURRENCIES",
    "CURRENCY_CODES",
    "DOTTED",
    "MAGNITUDES",
    "MONTHS",
    "SPELLED",
    "TITLES",
    "UNITS",
    "WEEKDAYS",
]

TITLES: Final = {
    "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "prof": "professor",
    "phd": "p h d", "vs": "versus", "jr": "junior", "sr": "senior", "etc": "et cetera",
}  # fmt: skip
"""Abbreviations with a full stop or without."""

DOTTED: Final = {
    "capt": "captain", "gen": "general", "sgt": "sergeant", "lt": "lieutenant", "col": "colonel",
    "rev": "reverend", "hon": "honorable", "gov": "governor", "sen": "senator", "pres": "president",
    "rep": "representative", "ave": "avenue", "rd": "road", "blvd": "boulevard", "mt": "mount",
    "approx": "approximately", "dept": "department", "est": "established", "inc": "incorporated",
    "ltd": "limited", "corp": "corporation", "co": "company", "govt": "government", "cf": "compare",
    "max": "maximum", "min": "minimum", "tel": "telephone", "ext": "extension",
    "e.g": "for example", "i.e": "that is", "a.k.a": "also known as", "p.s": "p s",
    "et al": "et al", "ph.d": "p h d",
}  # fmt: skip
"""Abbreviations with a full stop, without the last."""

BEFORE_NUMBERS: Final = {
    "no": "number", "nos": "numbers", "fig": "figure", "figs": "figures", "p": "page",
    "pp": "pages", "vol": "volume", "ch": "chapter", "sec": "section", "eq": "equation",
    "ca": "circa", "c": "circa",
}  # fmt: skip
"""Abbreviations with a full stop, where a number follows."""

MONTHS: Final = {
    "jan": "january", "feb": "february", "mar": "march", "apr": "april", "may": "may",
    "jun": "june", "jul": "july", "aug": "august", "sep": "september", "sept": "september",
    "oct": "october", "nov": "november", "dec": "december",
}  # fmt: skip
WEEKDAYS: Final = {
    "mon": "monday", "tue": "tuesday", "tues": "tuesday", "wed": "wednesday", "thu": "thursday",
    "thur": "thursday", "thurs": "thursday", "fri": "friday", "sat": "saturday", "sun": "sunday",
}  # fmt: skip

SPELLED: Final = frozenset("US EU UN AI ID PC AM PM IQ PE VR AR ER UV".split())
"""Initialisms that are spelled though the dictionary has a word of the same letters."""

CURRENCIES: Final = {
    "$": ("dollar", "cent"), "£": ("pound", "pence"), "€": ("euro", "cent"), "¥": ("yen", ""),
    "₹": ("rupee", "paisa"), "₩": ("won", ""), "₽": ("ruble", "kopek"), "¢": ("cent", ""),
}  # fmt: skip
CURRENCY_CODES: Final = {
    "USD": "U S dollar", "GBP": "pound", "EUR": "euro", "JPY": "yen", "CNY": "yuan", "RMB": "yuan",
    "INR": "rupee", "CAD": "Canadian dollar", "AUD": "Australian dollar", "CHF": "Swiss franc",
    "US$": "U S dollar", "A$": "Australian dollar", "C$": "Canadian dollar",
    "HK$": "Hong Kong dollar", "NZ$": "New Zealand dollar",
}  # fmt: skip
MAGNITUDES: Final = {
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million",
    "bn": "billion", "b": "billion", "B": "billion", "tn": "trillion", "hundred": "hundred",
    "thousand": "thousand", "million": "million", "billion": "billion", "trillion": "trillion",
}  # fmt: skip

UNITS: Final = {
    "km/h": "kilometer per hour", "kph": "kilometer per hour", "mph": "mile per hour",
    "m/s": "meter per second", "rpm": "revolution per minute", "kWh": "kilowatt hour",
    "km": "kilometer", "m": "meter", "dm": "decimeter", "cm": "centimeter", "mm": "millimeter",
    "μm": "micrometer", "nm": "nanometer", "kg": "kilogram", "g": "gram", "mg": "milligram",
    "μg": "microgram", "lb": "pound", "lbs": "pound", "oz": "ounce", "l": "liter", "L": "liter",
    "ml": "milliliter", "mL": "milliliter", "cl": "centiliter", "ft": "foot", "yd": "yard",
    "mi": "mile", "ha": "hectare", "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz",
    "GHz": "gigahertz", "KB": "kilobyte", "kB": "kilobyte", "MB": "megabyte", "GB": "gigabyte",
    "TB": "terabyte", "W": "watt", "kW": "kilowatt", "MW": "megawatt", "V": "volt",
    "kV": "kilovolt", "J": "joule", "kJ": "kilojoule", "kcal": "kilocalorie", "cal": "calorie",
    "N": "newton",
    "Pa": "pascal", "hPa": "hectopascal", "dB": "decibel", "ms": "millisecond", "s": "second",
    "sec": "second", "secs": "second", "min": "minute", "mins": "minute", "h": "hour", "hr": "hour",
    "hrs": "hour", "yr": "year", "yrs": "year", "px": "pixel",
    "°C": "degree Celsius", "°F": "degree Fahrenheit", "°": "degree",
}  # fmt: skip
"""Units behind a number, by their symbols, which tell small letters from capitals."""
