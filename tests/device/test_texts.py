"""How libasa reads texts: the words, sounds and tokens that Python reads, or a refusal by name."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from libasa import ROOT

from asa_engine.bundle import Bundle
from asa_engine.recogniser.vocabulary import Vocabulary
from asa_engine.text import speak
from asa_engine.text.dictionary import dictionary

READER = ROOT / "build" / "kernels" / "kernels" / "tests" / "read_text"
LETTERS = "abcdefghijklmnopqrstuvwxyz"

TEXTS = (
    "Mr. Smith and Dr Jones met Mrs. Brown on St. James St. yesterday, vs. Prof. Plum, etc.",
    "I'm sure they'd've gone, wouldn't you? I I'd i i'm",
    "The NATO, BBC and NASA people; UNESCO's and the USA's; CEOs and DVDs.",
    "\u201cDon\u2019t stop!\u201d she said \u2014 \u2018I can\u2019t\u2019\u2026",
    "Caf\u00e9 na\u00efve Z\u00fcrich S\u00e3o Paulo fa\u00e7ade jalape\u00f1o",
    "\u0141\u00f3d\u017a \u00c6r\u00f8 stra\u00dfe",
    "cafe\u0301 \ufb01ne \uff46\uff55\uff4c\uff4c zero\u200bwidth soft\u00adhyphen tab\there",
    "We saw him on Mon. and Tues. in Jan. and May. or June. Capt. Hook, Gen. Lee, Inc.",
    "'Tis the season, 'twas said; the dogs' bones and the boss's rock 'n' roll & chips.",
    "HELLO WORLD THIS IS SHOUTED BBC",
    "I, V and X are letters. My CV is long. See fig. tree no. one p. vol. ch.",
    "well-known mother-in-law and/or him: yes; re-read X-ray T-shirt e-mail",
    "hmm shh psst tsk brrr O'Brien McDonald iPhone eBay don\u00b4t it`s",
    "what?! (really) [yes] {no} \"so\" a\u2026b wait...what under_score *bold* /slash/",
    "IQ US EU ID PC AM PM ZX ABCDEF QUEUE RAM LAN Jr. and Sr.",
    "the colour of organised labour, travelling theatres, dialogues and defence, paediatric",
)  # fmt: skip


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """What is above, words, with endings, spelled the British way, and what is no word."""
    chosen = random.Random(1)
    words = dictionary().words()
    some = chosen.sample(words, 600)
    made = ["".join(chosen.choices(LETTERS, k=chosen.randint(2, 10))) for _ in range(60)]
    return [
        *TEXTS,
        *some,
        *(f"{word}{end}" for end in ("'s", "s", "'") for word in some[:100]),
        *(word.replace("or", "our") for word in words[::60] if "or" in word),
        *(word.replace("iz", "is") for word in words[::30] if "iz" in word),
        *(f"{word[:-2]}re" for word in words[::200] if word.endswith("er")),
        *made,
        *(f"{word.upper()}{end} it is" for end in ("", "s", "'s") for word in made[:30]),
    ]


@pytest.mark.skipif(not READER.is_file(), reason=f"{READER} is not built: make kernel-tests")
def test_texts_are_read_as_in_python(texts: list[str], reading_file: Path) -> None:
    written = "".join(f"{text}\n" for text in texts)
    done = subprocess.run(
        [READER, reading_file], input=written.encode(), capture_output=True, check=True
    )
    found = done.stdout.decode().split("\n\n")[:-1]
    vocabulary = Vocabulary.read(Bundle.open("pronunciation").path)
    for text, block in zip(texts, found, strict=True):
        words = speak(text).words
        expected = [
            "\t".join((word.text, word.spoken, *map(" ".join, word.pronunciations)))
            for word in words
        ]
        said = "".join(f" {word.spoken}" for word in words)
        ids = "".join(f"{id} " for id in vocabulary.encode(f"{said}."))
        assert block.split("\n") == [*expected, ids], text
    assert len(texts) > 1200
