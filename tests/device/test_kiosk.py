"""The kiosk page in Chromium, with a recorded microphone: the engine's scores, also offline."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from chromium import CHROMIUM, chromium
from kiosk_page import (
    ASPECTS,
    DEMO,
    KIOSK,
    SECONDS,
    TEXT,
    accessible,
    as_the_engine,
    assess,
    choose,
    microphone,
    open_page,
    press,
    record,
    recording_of,
    scores_of,
    served,
    shot,
    type_text,
    until,
    values,
    widths_of,
    words_of,
)

import asa_engine
from asa_engine.audio.validity import REASONS
from asa_engine.graders.pronunciation.again import AGAIN
from asa_engine.graders.pronunciation.feedback import MISMATCH
from asa_engine.server.kiosk import HEADERS

pytestmark = [
    pytest.mark.skipif(not (KIOSK / "reading.asa").is_file(), reason="not built: make kiosk"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not here"),
]


def test_scores_as_the_engine_does_also_without_a_network(tmp_path: Path) -> None:
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    samples = samples[: SECONDS * rate_hz]
    arguments = microphone(tmp_path / "microphone.wav", samples)
    with chromium(tmp_path / "profile", *arguments) as page, served() as (address, server):
        open_page(page, address)
        shot(page, "ready")
        for offline in (False, True):
            if offline:
                server.shutdown()
                server.server_close()
                page.call(
                    "Network.emulateNetworkConditions",
                    offline=True, latency=0, downloadThroughput=0, uploadThroughput=0,
                )  # fmt: skip
                page.call("Page.reload")
                page.wait("!document.querySelector('#scores li')")
                until(page, "Ready")
            type_text(page, TEXT)
            press(page)
            until(page, "Listening")
            start = time.monotonic()
            page.wait("document.querySelector('#scores li')")
            provisional = scores_of(page)
            passed = "[...document.querySelectorAll('#sentence .word')].map(w => w.textContent)"
            page.wait(f"{passed}.length > 1")
            assert page.value(passed)[:2] == ["Last", "summer"]
            assert page.value("document.getElementById('heading').textContent") == "So far"
            shot(page, "live")
            time.sleep(max(0, SECONDS + 1 - (time.monotonic() - start)))
            press(page)
            until(page, "Your scores are below")
            found = scores_of(page)
            assert found.keys() == provisional.keys() == ASPECTS
            soundfile.write(tmp_path / "played.wav", *recording_of(page), subtype="PCM_16")
            said = assess(tmp_path / "played.wav", TEXT)
            same = values(said)
            for name, value in found.items():
                # What is played back is what is scored.
                assert value == pytest.approx(same[name], abs=1e-3)
            as_the_engine(page, said)
            told = page.value("[...document.querySelectorAll('#scores p')].map(p => p.textContent)")
            assert len(told) == len(ASPECTS)
            assert all(len(sentence) > len("Give or take 1.0.") for sentence in told)
            assert page.value("document.activeElement.id") == "heading"
            page.wait("document.getElementById('playback').duration > 6")
            assert page.value("crossOriginIsolated")  # also of what the service worker kept
            shot(page, "final")
            accessible(page)
        # The player's own pictures are data.
        ours = (address, f"blob:{address}", "data:")
        assert [url for url in page.asked if not url.startswith(ours)] == []
        assert page.complaints == []


def test_what_cannot_be_judged_gets_a_sentence(tmp_path: Path) -> None:
    silence = np.zeros(16000, dtype=np.int16)
    arguments = microphone(tmp_path / "microphone.wav", silence)
    with chromium(tmp_path / "profile", *arguments) as page, served() as (address, _):
        open_page(page, address)
        for denied, sentence in (
            ("NotFoundError", "There is no microphone"),
            ("NotAllowedError", "not allowed"),
            ("NotReadableError", "Another program"),
        ):
            page.value(f"window.denied = {denied!r}")
            press(page)
            until(page, sentence)
            assert page.value("document.getElementById('status').className") == "problem"
            assert page.value("document.getElementById('record').ariaDisabled") == "false"
        page.value("window.denied = undefined")
        shot(page, "problem")
        record(page, 1)
        until(page, "Nothing was heard")
        assert scores_of(page) == {}
        page.value(
            "new MutationObserver((_, self) => { self.disconnect(); record.click(); })"
            ".observe(document.getElementById('record'), "
            "{ attributeFilter: ['class'], attributes: true })"
        )
        press(page)
        until(page, "too short")
        page.wait("record.ariaDisabled === 'false'")
        press(page)
        until(page, "Listening")
        time.sleep(1)
        page.value("microphone.getTracks()[0].dispatchEvent(new Event('ended'))")
        until(page, "disconnected")
        assert page.complaints == []


def test_words_that_were_not_said_and_another_text(tmp_path: Path) -> None:
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    arguments = microphone(tmp_path / "microphone.wav", samples[: SECONDS * rate_hz])
    other = "She usually measures twice and cuts once, which is why her furniture lasts."
    longer = TEXT.replace("went", "went slowly").replace("mountains", "beautiful green mountains")
    for number, text in enumerate((longer, other)):
        with chromium(tmp_path / f"profile-{number}", *arguments) as page, served() as (address, _):
            open_page(page, address)
            type_text(page, text)
            record(page, SECONDS + 1)
            if text == other:
                until(page, "another text")
                assert (scores_of(page), words_of(page)) == ({}, [])
                continue
            until(page, "Your scores are below")
            soundfile.write(tmp_path / "played.wav", *recording_of(page), subtype="PCM_16")
            said = assess(tmp_path / "played.wav", text)
            as_the_engine(page, said)
            left = [word["text"] for word in said["words"] if word["error"] == "omission"]
            assert left
            assert ", ".join(left) in page.value("advice.firstChild.textContent")
            assert "left out" in page.value("legend.textContent")
            line = "getComputedStyle(document.querySelector('#read .omission')).textDecorationLine"
            assert page.value(line) == "line-through"
            # A word tells its sounds, by the keyboard, too.
            index = next(i for i, word in enumerate(said["words"]) if word["text"] == "summer")
            page.value(f"document.querySelectorAll('#read .word')[{index}].focus()")
            page.press("Enter")
            assert page.value("document.activeElement.ariaPressed") == "true"
            sounds = page.value(
                "[...document.querySelectorAll('#sounds li')].map(item => item.dataset.phone)"
            )
            assert sounds == [phone["phone"] for phone in said["words"][index]["phones"]]
            shot(page, "words")
            accessible(page)
            page.value("language.value = 'es', language.dispatchEvent(new Event('change'))")
            assert page.value("document.querySelectorAll('#read [aria-pressed=true]').length") == 1
            assert page.value("document.querySelector('#sounds strong').textContent") == "summer"
            assert all(found <= width for width, found in widths_of(page).items())
        assert page.complaints == []


def test_a_text_that_cannot_be_read_is_told_before_the_microphone(tmp_path: Path) -> None:
    arguments = microphone(tmp_path / "microphone.wav", np.zeros(16000, dtype=np.int16))
    with chromium(tmp_path / "profile", *arguments) as page, served() as (address, _):
        open_page(page, address)
        for text, sentence in (
            ("", "Type or paste a text"),
            ("I have 3 cats.", "Please write it in words"),
            ("Мы зовём это", "cannot be read"),
        ):
            type_text(page, text)
            press(page)
            until(page, sentence)
            assert page.value("window.microphone === undefined")
            assert page.value("record.ariaDisabled") == "false"
        assert page.complaints == []


def test_free_speech_is_scored_by_the_other_grader(tmp_path: Path) -> None:
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    arguments = microphone(tmp_path / "microphone.wav", samples[: SECONDS * rate_hz])
    with chromium(tmp_path / "profile", *arguments) as page, served() as (address, _):
        open_page(page, address)
        choose(page, "free")
        record(page, SECONDS + 1)
        until(page, "Your scores are below")
        audio = recording_of(page)
        engine = asa_engine.load("acoustic", backend="native", precision="fp32", threads=1)
        expected = engine.assess(audio).scores
        original = engine.assess(tmp_path / "microphone.wav").scores
        found = scores_of(page)
        assert found.keys() == expected.keys() == ASPECTS - {"completeness"}
        for name, value in found.items():
            assert value == pytest.approx(expected[name].value, abs=1e-3)
            # The browser's microphone adds silence before and after, which alone moves them
            # by 0.06, and resamples to 48 kHz and back: as much again.
            assert value == pytest.approx(original[name].value, abs=0.12)
        assert page.value("document.getElementById('reading').hidden")
        # The reading's grader takes its place again.
        type_text(page, TEXT)
        press(page)
        until(page, "Listening")
        assert page.complaints == []


def test_a_refusal_by_the_browser_gets_a_sentence(tmp_path: Path) -> None:
    arguments = ["--use-fake-ui-for-media-stream=deny", "--use-fake-device-for-media-stream"]
    with chromium(tmp_path / "profile", *arguments) as page, served() as (address, _):
        open_page(page, address)
        press(page)
        until(page, "not allowed")


def test_without_its_grader_the_page_says_so(tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as page, served(missing="/reading.asa") as (address, _):
        page.call("Page.navigate", url=address)
        until(page, "Something went wrong")
        until(page, "status 404")


def test_languages_access_and_policy(tmp_path: Path) -> None:
    with (
        chromium(tmp_path / "profile") as page,
        served() as (address, _),
        served() as (elsewhere, _),
    ):
        open_page(page, address)
        strings = page.value("import('./strings.js').then(module => module.STRINGS)")
        assert len(strings) >= 3
        wanted = {f"{name}_{band}" for name in ASPECTS for band in ("low", "middle", "high")}
        for language, sentences in strings.items():
            assert sentences.keys() == strings["en"].keys()
            assert sentences.keys() >= {*REASONS, AGAIN, MISMATCH, *ASPECTS, *wanted}
            assert all(sentences.values())
            page.value(
                f"language.value = {language!r}, language.dispatchEvent(new Event('change'))"
            )
            assert page.value("document.documentElement.lang") == language
            assert page.value("record.textContent") == sentences["start"]
            shot(page, language)
            assert all(found <= width for width, found in widths_of(page).items())
        page.call("Page.navigate", url=f"{address}?lang=es")
        until(page, strings["es"]["ready"])

        roles = {"button", "combobox", "status", "heading", "region"}
        nodes = [
            node for node in page.call("Accessibility.getFullAXTree")["nodes"] if "name" in node
        ]
        unnamed = [
            node["role"]["value"]
            for node in nodes
            if node["role"]["value"] in roles - {"status"} and not node["name"].get("value")
        ]
        assert unnamed == []
        assert roles - {"region"} <= {node["role"]["value"] for node in nodes}

        meta = "document.querySelector('meta[http-equiv]').content"
        served_with = "fetch('grading.js').then(r => r.headers.get('Content-Security-Policy'))"
        policy = page.value(meta).split()
        assert page.value(served_with).split() == policy
        assert "connect-src 'self';" in " ".join(policy)
        asking = f"fetch({elsewhere!r}, {{ mode: 'no-cors' }}).then(() => 'sent', () => 'refused')"
        assert page.value(asking) == "refused"


def test_what_is_to_be_said_is_chosen_or_typed(tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as page, served() as (address, _):
        open_page(page, address)
        given = page.value("import('./strings.js').then(module => module.SENTENCES)")
        assert len(set(given)) == len(given) > 5
        for index, sentence in enumerate(given):
            choose(page, str(index))
            assert page.value("document.getElementById('sentence').textContent") == sentence
        notes = "document.getElementById('notes').textContent"
        assert "every word" in page.value(notes)
        choose(page, "free")
        assert "not word by word" in page.value(notes)
        assert page.value("words.checkVisibility()") is False

        choose(page, "own")
        assert page.value("document.getElementById('sentence').checkVisibility()") is False
        page.value("words.focus()")
        page.call("Input.insertText", text="We call it <b>bear</b>.")
        assert page.value("words.value") == "We call it <b>bear</b>."
        assert "every word" in page.value(notes)
        assert "English" not in page.value(notes)
        for typed, said in (("Мы зовём это", "not look like English"), ("word " * 120, "a minute")):
            page.value(f"words.value = {typed!r}, words.dispatchEvent(new Event('input'))")
            assert said in page.value(notes)
        shot(page, "own")
        accessible(page)


def test_the_keyboard_reaches_everything_in_order(tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as page, served() as (address, _):
        open_page(page, address)
        choose(page, "own")
        page.value("document.activeElement.blur()")
        reached = []
        for _ in range(4):
            page.press("Tab")
            reached.append(page.value("document.activeElement.id"))
        assert reached == ["language", "choice", "words", "record"]


def test_page_server_and_worker_have_one_policy() -> None:
    policy = HEADERS["Content-Security-Policy"].removesuffix("; frame-ancestors 'none'")
    page, worker = ((KIOSK / name).read_text("utf-8") for name in ("index.html", "sw.js"))
    assert f'content="{policy}"' in " ".join(page.split())
    assert policy in worker.replace('" +\n  "', "")
