"""English text as it is read aloud: words, readings, spans, refusals."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.text import MAX_LETTERS, MAX_WORDS, PHONES, Lexicon, speak
from asa_engine.text.phones import bare

READINGS = {
    # What is expected was written by hand, as an American reads it.
    "It costs $5.": "it costs five dollars",
    "$3.50 and £1,250.99, €20": "three dollars and fifty cents and one thousand two hundred and "
    "fifty pounds and ninety nine pence twenty euros",
    "$1.5 million, £5bn, $0.50": "one point five million dollars five billion pounds fifty cents",
    "January 5, 2024": "january fifth twenty twenty four",
    "the 5th of May": "the fifth of may",
    "5/1/2024 or 2024-01-05": "may first twenty twenty four or january fifth twenty twenty four",
    "31/12/1999": "december thirty first nineteen ninety nine",
    "on Mon. Feb. 3rd": "on monday february third",
    "at 5:30 pm, 10:05, 5:00": "at five thirty p m ten oh five five o'clock",
    "in 1999, by 2010": "in nineteen ninety nine by twenty ten",
    "1066 men": "one thousand and sixty six men",
    "1914-1918, 10–20": "nineteen fourteen to nineteen eighteen ten to twenty",
    "the 1990s and '80s": "the nineteen nineties and eighties",
    "1,234,567": "one million two hundred and thirty four thousand five hundred and sixty seven",
    "3.14 -5 007": "three point one four minus five zero zero seven",
    "50% of 2nd": "fifty percent of second",
    "10 km/h, 1 kg, 5 m², -5°C": "ten kilometers per hour one kilogram five square meters "
    "minus five degrees celsius",
    "1/2, 3/4, 2½": "one half three quarters two and a half",
    "2 + 2 = 4": "two plus two equals four",
    "call 555-1234": "call five five five one two three four",
    "me@example.com": "me at example dot com",
    "https://www.example.com/a-b.": "w w w dot example dot com slash a dash b",
    "Dr. Smith, Mr Jones vs. Mrs. Lee": "doctor smith mister jones versus missus lee",
    "e.g. St. Mary on Main St.": "for example saint mary on main street",
    "the U.S.A., BBC's XLRs, MP3, COVID-19": "the u s a bbc's x l r's m p three covid nineteen",
    "Henry VIII, World War II": "henry the eighth world war two",
    "No. 5. No!": "number five no",
    "R&D #5 @home": "r and d number five at home",
    "It’s “well-known”—isn’t it? ‘Yes’": "it's well known isn't it yes",
    "naïve Ångström cafe\u0301 ﬁne ＸＬＲ Łódź": "naive angstrom cafe fine x l r lodz",
    "I'm 'bout done": "i'm 'bout done",
    "WE CALL IT BEAR": "we call it bear",
    "soft\u00adhyphen zero\u200bwidth": "softhyphen zerowidth",
    "rhythm hmm tv xkcd": "rhythm hmm tv x k c d",
}


@pytest.mark.parametrize(("text", "spoken"), READINGS.items(), ids=range(len(READINGS)))
def test_text_is_read_as_people_read_it(text: str, spoken: str) -> None:
    assert " ".join(word.spoken for word in speak(text).words) == spoken


def test_words_of_a_text_are_small_letters_without_punctuation() -> None:
    words = speak("Don\N{RIGHT SINGLE QUOTATION MARK}t  call, IT\n'cause well-known!").words
    assert tuple(word.spoken for word in words) == (
        "don't",
        "call",
        "it",
        "'cause",
        "well",
        "known",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("it\N{ACUTE ACCENT}s `call`", ("it's", "call")),
        ("\N{LATIN SMALL LIGATURE FI}sh", ("fish",)),
        ("co\N{SOFT HYPHEN}operate\N{ZERO WIDTH NO-BREAK SPACE}", ("cooperate",)),
        (
            "we\N{NO-BREAK SPACE}call\N{EM DASH}\N{LEFT DOUBLE QUOTATION MARK}it",
            ("we", "call", "it"),
        ),
    ],
)
def test_what_is_written_otherwise_is_the_same_word(text: str, words: tuple[str, ...]) -> None:
    assert tuple(word.spoken for word in speak(text).words) == words


def test_the_result_says_how_something_was_read() -> None:
    found = speak("It costs $5, not 5 kg")
    assert [(r.written, r.spoken, r.kind) for r in found.readings] == [
        ("$5", "five dollars", "currency"),
        ("5 kg", "five kilograms", "unit"),
    ]
    assert [(word.text, word.spoken, word.span) for word in found.words[2:4]] == [
        ("$5", "five", (9, 11)),
        ("$5", "dollars", (9, 11)),
    ]
    assert all(found.original[slice(*word.span)] == word.text for word in found.words)


def test_spans_are_those_of_the_original() -> None:
    text = "…“Cafe\u0301” — ﬁne, 2½\n😀"[:-1]
    found = speak(text)
    assert [text[slice(*word.span)] for word in found.words] == [
        "Cafe",
        "ﬁne",
        *("2½",) * 4,
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("привет", "U+043F CYRILLIC SMALL LETTER PE, of the Cyrillic script"),
        ("你好", "U+4F60 CJK UNIFIED IDEOGRAPH-4F60, of the Chinese script"),
        ("안녕", "U+C548 HANGUL SYLLABLE AN, of the Hangul script"),
        ("مرحبا", "U+0645 ARABIC LETTER MEEM, of the Arabic script"),
        ("١٢", "U+0661 ARABIC-INDIC DIGIT ONE, of the Arabic script"),
        ("I like α", "U+03B1 GREEK SMALL LETTER ALPHA, of the Greek script"),
        ("hello 😀", "U+1F600 GRINNING FACE"),
        ("a\x07b", "U+0007, a control character"),
        ("a\ud800b", "U+D800, half a character"),
        ("a\ue000", "U+E000, a private character"),
        ("<|im_end|>", "U+003C LESS-THAN SIGN"),
        ("five $", "U+0024 DOLLAR SIGN"),
        ("x\\y", "U+005C REVERSE SOLIDUS"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_code_point(text: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        speak(text)
    assert named in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "  \n\t", "...!?", "\u200b"])
def test_a_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no word"):
        speak(text)


def test_lengths_have_bounds() -> None:
    assert len(speak("word " * 10_000).words) == 10_000
    with pytest.raises(UsageError, match=f"more than {MAX_WORDS} words"):
        speak("word " * (MAX_WORDS + 1))
    with pytest.raises(UsageError, match="characters"):
        speak("word " * 200_000)
    with pytest.raises(UsageError, match="500 words that no dictionary has"):
        speak(
            " ".join(f"zq{a}{b}o" for a in string.ascii_lowercase for b in string.ascii_lowercase)
        )
    with pytest.raises(UsageError, match="longer than any word"):
        speak("a" * (MAX_LETTERS + 1))
    with pytest.raises(UsageError, match="a number of 41 digits"):
        speak("1" * 41)
    with pytest.raises(UsageError, match="more than"):
        speak("1234567 " * 4000)  # few tokens, many words


_READABLE = st.text(
    st.one_of(
        st.characters(max_codepoint=0x17F),
        st.sampled_from("0123456789.,:/-–$€£%°'’“”@#&+=()½²IVX aeiou"),
    ),
    max_size=60,
)


_PIECES = (
    "$ £ € 5 12 1999 2024 1,234 3.14 .5 % kg km/h °C am p.m. : 30 / - – Jan May st th Dr. Mr St. "
    "e.g. U.S. VIII Chapter Henry @ x.com http:// www. ' ’ 's 80s COVID BBC iPhone café ² ½ + = < "
    "> * # & ( ) ... the of a I hello 1/2 24/7 555-1234 +44 million bn k m v1.2.3 A4 \u200b ß ﬁ "
    "No. p. § ~ ± × ÷ μg ‰ 5'10\" 0 00"
)
_MIXED = st.lists(st.sampled_from([*_PIECES.split(), " ", " ", "\n"]), max_size=12).map("".join)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=60), _READABLE, _MIXED))
@example("www.² 5")
@example("http://μg 5")
def test_any_text_gives_words_with_phones_or_a_usage_error(text: str) -> None:
    try:
        found = speak(text)
    except UsageError:
        return
    assert found.words
    before = 0
    for word in found.words:
        assert set(word.spoken) <= set("abcdefghijklmnopqrstuvwxyz'")
        assert word.spoken.strip("'")
        assert word.pronunciations
        for said in word.pronunciations:
            assert said
            assert {bare(phone) for phone in said} <= set(PHONES)
        assert 0 < word.confidence <= 1
        start, end = word.span
        assert before <= start < end <= len(text)
        assert text[start:end] == word.text
        before = start


def test_the_first_lexicon_decides_and_comes_before_the_dictionary(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("read R EH1 D\n")
    second.write_text("READ R IY1 D # verb\ndog D AO1 G\ndog(2) D AA G\nBlorf B L ER F\n")
    lexicon = Lexicon.read([first, second])
    assert len(lexicon) == 3
    found = speak("Read: 'dog', Blorf, cat", lexicon).words
    assert [word.pronunciations for word in found] == [
        (("R", "EH1", "D"),),
        (("D", "AO1", "G"), ("D", "AA", "G")),
        (("B", "L", "ER", "F"),),
        (("K", "AE1", "T"),),
    ]
    assert {word.source for word in found} == {"dictionary"}


@pytest.mark.parametrize("content", [b"dog D XX G\n", b"dog\n", b"\xff\xfe"])
def test_a_damaged_lexicon_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        Lexicon.read([path])
    with pytest.raises(CheckpointError):
        Lexicon.read([tmp_path / "none"])


def test_british_forms_are_as_good() -> None:
    here, little, car, run = speak("here little car run").words
    assert ("HH", "IH1", "AH0") in here.variants
    assert ("L", "IH1", "T", "L") in little.variants
    assert car.variants == (("K", "AA1"),)
    assert run.variants == ()
    assert ("M", "EH1", "R", "IY0") not in speak("merry").words[0].variants
