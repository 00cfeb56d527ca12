"""Texts of a request: bounded, and free of what no text holds."""

from __future__ import annotations

from pathlib import Path

import pytest

import asa_engine as asa
from asa_engine.errors import UsageError
from asa_engine.request import MAX_CHARACTERS, Request


def test_texts_that_people_write_are_taken() -> None:
    said = "Describe your town.\n\t“Où?” 你好 👩‍👩‍👧 naïve"
    assert Request(text=said, prompt="x" * MAX_CHARACTERS).text == said
    assert Request(prompt="").given() == ("prompt",)
    assert Request().given() == ()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("x" * (MAX_CHARACTERS + 1), "at most"),
        ("a\0b", r"U\+0000"),
        ("a\x1b[2J", r"U\+001B"),
        ("\ud800", r"U\+D800"),
        (b"bytes", "must be text"),
        (7, "must be text"),
    ],
)
@pytest.mark.parametrize("name", ["text", "prompt"])
def test_what_is_no_text_is_refused(name: str, value: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Request(**{name: value})  # type: ignore[arg-type]


def test_a_grader_is_not_given_texts_in_vain(fake_bundle: Path) -> None:
    engine = asa.load(fake_bundle, backend="fake")
    assert engine.uses == ()
    with pytest.raises(UsageError, match="does not use a prompt"):
        engine.stream(prompt="Describe your town.")
