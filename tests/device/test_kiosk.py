"""The kiosk page in Chromium, with a recorded microphone: the engine's scores, also offline."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import soundfile
from chromium import CHROMIUM, Page, chromium
from libasa import ROOT

import asa_engine
from asa_engine.audio.validity import REASONS
from asa_engine.graders.pronunciation.again import AGAIN
from asa_engine.graders.pronunciation.feedback import MISMATCH
from asa_engine.server.kiosk import HEADERS, KioskServer

KIOSK = ROOT / "build" / "kiosk"
AXE = ROOT / "tests" / "node" / "node_modules" / "axe-core" / "axe.min.js"
DEMO = ROOT / "examples" / "audio" / "demo.flac"
SECONDS = 6
TEXT = "Last summer I went to the mountains with my family."
ASPECTS = {"accuracy", "fluency", "prosodic", "total", "completeness"}
# Keeps what a test must get at: the recording that is played back, and the microphone.
WATCH = """
const create = URL.createObjectURL;
URL.createObjectURL = (blob) => create.call(URL, (window.recording = blob));
const devices = navigator.mediaDevices;
const ask = devices.getUserMedia.bind(devices);
devices.getUserMedia = async (wanted) => {
  if (window.denied) throw new DOMException("", window.denied);
  return (window.microphone = await ask(wanted));
};
"""

pytestmark = [
    pytest.mark.skipif(not (KIOSK / "reading.asa").is_file(), reason="not built: make kiosk"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not here"),
]


@contextmanager
def served(missing: str = "") -> Iterator[tuple[str, KioskServer]]:
    """The folder as `asa-engine kiosk` serves it, without one of its files."""
    server = KioskServer(KIOSK)
    server.files.pop(missing, None)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.address, server
    finally:
        server.shutdown()
        server.server_close()


def _microphone(path: Path, samples: np.ndarray, rate_hz: int = 16000) -> list[str]:
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    return [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={path}%noloop",
    ]


def _open(page: Page, address: str) -> None:
    page.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    page.call("Page.navigate", url=address)
    _until(page, "Ready")


def _until(page: Page, status: str) -> None:
    page.wait(f"document.getElementById('status')?.textContent.includes({status!r})")


def _press(page: Page) -> None:
    """The button, by the keyboard; the browser takes it for a person's."""
    page.value("document.getElementById('record').focus()")
    page.press("Enter")


def _record(page: Page, seconds: float) -> None:
    _press(page)
    _until(page, "Listening")
    time.sleep(seconds)
    _press(page)


def _scores(page: Page) -> dict[str, float]:
    found = page.value(
        "[...document.querySelectorAll('#scores li')]"
        ".map(item => [item.dataset.name, item.dataset.value])"
    )
    return {name: float(value) for name, value in found}


def _recording(page: Page) -> tuple[np.ndarray, int]:
    """The WAV that the page plays back."""
    said = page.value(
        "recording.arrayBuffer().then(b => "
        "btoa(Array.from(new Uint8Array(b), c => String.fromCharCode(c)).join('')))"
    )
    data = base64.b64decode(said)
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
    return soundfile.read(io.BytesIO(data), dtype="int16")


def _assess(audio: Path, text: str) -> dict[str, Any]:
    """What the command says, on the kernels that WebAssembly has."""
    done = subprocess.run(
        [sys.executable, "-m", "asa_engine", "assess", audio, "--text", text, "--json",
         "--backend", "native", "--precision", "int8", "--threads", "1"],
        env=os.environ | {"ASA_CPU_ISA": "generic"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _values(said: dict[str, Any]) -> dict[str, float]:
    return {name: score["value"] for name, score in said["scores"].items()}


def _words(page: Page) -> list[tuple[str, str, float | None]]:
    """Text, error and score of the words, as the page tells them."""
    found = page.value(
        "[...document.querySelectorAll('#read .word')].map(word => "
        "[word.dataset.text, word.dataset.error, word.dataset.value])"
    )
    return [(text, error, float(value) if value else None) for text, error, value in found]


def _type(page: Page, text: str) -> None:
    _choose(page, "own")
    page.value(f"words.value = {text!r}, words.dispatchEvent(new Event('input'))")


def _as_the_engine(page: Page, said: dict[str, Any]) -> None:
    """Words and errors are the engine's, and scores but for the last bits."""
    found = _words(page)
    assert [(text, error) for text, error, _ in found] == [
        (word["text"], word["error"]) for word in said["words"]
    ]
    for (_, _, value), word in zip(found, said["words"], strict=True):
        score = word.get("score")
        assert value == (score and pytest.approx(score["value"], abs=1e-3))


def _shot(page: Page, name: str) -> None:
    """Pictures to look at, where KIOSK_SHOTS names a folder."""
    if "KIOSK_SHOTS" in os.environ:
        for width, height in ((1100, 1000), (360, 780)):
            page.screenshot(Path(os.environ["KIOSK_SHOTS"]) / f"{name}-{width}.png", width, height)


def _accessible(page: Page) -> None:
    """What axe-core finds is nothing serious, in the light and in the dark."""
    if not AXE.is_file():
        return  # npm ci --prefix tests/node
    page.value(f"{AXE.read_text(encoding='utf-8')}; 0")
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.call("Emulation.setEmulatedMedia", features=features)
        found = page.value(
            "axe.run().then(({ passes, violations }) => [passes.length, violations.map("
            "({ id, impact, nodes }) => [impact, id, nodes.map(node => node.html).join()])])"
        )
        assert found[0] > 10
        assert [each for each in found[1] if each[0] in ("serious", "critical")] == []
    page.call("Emulation.setEmulatedMedia", features=[])


def _choose(page: Page, value: str) -> None:
    page.value(f"choice.value = {value!r}, choice.dispatchEvent(new Event('change'))")


def test_scores_as_the_engine_does_also_without_a_network(tmp_path: Path) -> None:
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    samples = samples[: SECONDS * rate_hz]
    arguments = _microphone(tmp_path / "microphone.wav", samples)
    with chromium(tmp_path / "profile", *arguments) as page, served() as (address, server):
        _open(page, address)
        _shot(page, "ready")
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
                _until(page, "Ready")
            _type(page, TEXT)
            _press(page)
            _until(page, "Listening")
            start = time.monotonic()
            page.wait("document.querySelector('#scores li')")
            provisional = _scores(page)
            passed = "[...document.querySelectorAll('#sentence .word')].map(w => w.textContent)"
            page.wait(f"{passed}.length > 1")
            assert page.value(passed)[:2] == ["Last", "summer"]
            assert page.value("document.getElementById('heading').textContent") == "So far"
            _shot(page, "live")
            time.sleep(max(0, SECONDS + 1 - (time.monotonic() - start)))
            _press(page)
            _until(page, "Your scores are below")
            found = _scores(page)
            assert found.keys() == provisional.keys() == ASPECTS
            soundfile.write(tmp_path / "played.wav", *_recording(page), subtype="PCM_16")
            said = _assess(tmp_path / "played.wav", TEXT)
            same = _values(said)
            for name, value in found.items():
                # What is played back is what is scored.
                assert value == pytest.approx(same[name], abs=1e-3)
            _as_the_engine(page, said)
            told = page.value("[...document.querySelectorAll('#scores p')].map(p => p.textContent)")
            assert len(told) == len(ASPECTS)
            assert all(len(sentence) > len("Give or take 1.0.") for sentence in told)
            assert page.value("document.activeElement.id") == "heading"
            page.wait("document.getElementById('playback').duration > 6")
            assert page.value("crossOriginIsolated")  # also of what the service worker kept
            _shot(page, "final")
            _accessible(page)
        # The player's own pictures are data.
        ours = (address, f"blob:{address}", "data:")
        assert [url for url in page.asked if not url.startswith(ours)] == []
        assert page.complaints == []


def test_what_cannot_be_judged_gets_a_sentence(tmp_path: Path) -> None:
    silence = np.zeros(16000, dtype=np.int16)
    arguments = _microphone(tmp_path / "microphone.wav", silence)
    with chromium(tmp_path / "profile", *arguments) as page, served() as (address, _):
        _open(page, address)
        for denied, sentence in (
            ("NotFoundError", "There is no microphone"),
            ("NotAllowedError", "not allowed"),
            ("NotReadableError", "Another program"),
        ):
            page.value(f"window.denied = {denied!r}")
            _press(page)
            _until(page, sentence)
            assert page.value("document.getElementById('status').className") == "problem"
            assert page.value("document.getElementById('record').ariaDisabled") == "false"
        page.value("window.denied = undefined")
        _shot(page, "problem")
        _record(page, 1)
        _until(page, "Nothing was heard")
        assert _scores(page) == {}
        page.value(
            "new MutationObserver((_, self) => { self.disconnect(); record.click(); })"
            ".observe(document.getElementById('record'), "
            "{ attributeFilter: ['class'], attributes: true })"
        )
        _press(page)
        _until(page, "too short")
        page.wait("record.ariaDisabled === 'false'")
        _press(page)
        _until(page, "Listening")
        time.sleep(1)
        page.value("microphone.getTracks()[0].dispatchEvent(new Event('ended'))")
        _until(page, "disconnected")
        assert page.complaints == []


def test_words_that_were_not_said_and_another_text(tmp_path: Path) -> None:
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    arguments = _microphone(tmp_path / "microphone.wav", samples[: SECONDS * rate_hz])
    other = "She usually measures twice and cuts once, which is why her furniture lasts."
    longer = TEXT.replace("went", "went slowly").replace("mountains", "beautiful green mountains")
    for number, text in enumerate((longer, other)):
        with chromium(tmp_path / f"profile-{number}", *arguments) as page, served() as (address, _):
            _open(page, address)
            _type(page, text)
            _record(page, SECONDS + 1)
            if text == other:
                _until(page, "another text")
                assert (_scores(page), _words(page)) == ({}, [])
                continue
            _until(page, "Your scores are below")
            soundfile.write(tmp_path / "played.wav", *_recording(page), subtype="PCM_16")
            said = _assess(tmp_path / "played.wav", text)
            _as_the_engine(page, said)
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
            _shot(page, "words")
            _accessible(page)
            page.value("language.value = 'es', language.dispatchEvent(new Event('change'))")
            assert page.value("document.querySelectorAll('#read [aria-pressed=true]').length") == 1
            assert page.value("document.querySelector('#sounds strong').textContent") == "summer"
            for width in (320, 1100):
                page.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=800, deviceScaleFactor=1, mobile=False,
                )  # fmt: skip
                assert page.value("document.documentElement.scrollWidth") <= width
        assert page.complaints == []


def test_a_text_that_cannot_be_read_is_told_before_the_microphone(tmp_path: Path) -> None:
    arguments = _microphone(tmp_path / "microphone.wav", np.zeros(16000, dtype=np.int16))
    with chromium(tmp_path / "profile", *arguments) as page, served() as (address, _):
        _open(page, address)
        for text, sentence in (
            ("", "Type or paste a text"),
            ("I have 3 cats.", "Please write it in words"),
            ("Мы зовём это", "cannot be read"),
        ):
            _type(page, text)
            _press(page)
            _until(page, sentence)
            assert page.value("window.microphone === undefined")
            assert page.value("record.ariaDisabled") == "false"
        assert page.complaints == []


def test_free_speech_is_scored_by_the_other_grader(tmp_path: Path) -> None:
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    arguments = _microphone(tmp_path / "microphone.wav", samples[: SECONDS * rate_hz])
    with chromium(tmp_path / "profile", *arguments) as page, served() as (address, _):
        _open(page, address)
        _choose(page, "free")
        _record(page, SECONDS + 1)
        _until(page, "Your scores are below")
        audio = _recording(page)
        engine = asa_engine.load("acoustic", backend="native", precision="fp32", threads=1)
        expected = engine.assess(audio).scores
        original = engine.assess(tmp_path / "microphone.wav").scores
        found = _scores(page)
        assert found.keys() == expected.keys() == ASPECTS - {"completeness"}
        for name, value in found.items():
            assert value == pytest.approx(expected[name].value, abs=1e-3)
            # The browser's microphone adds silence before and after, which alone moves them
            # by 0.06, and resamples to 48 kHz and back: as much again.
            assert value == pytest.approx(original[name].value, abs=0.12)
        assert page.value("document.getElementById('reading').hidden")
        # The reading's grader takes its place again.
        _type(page, TEXT)
        _press(page)
        _until(page, "Listening")
        assert page.complaints == []


def test_a_refusal_by_the_browser_gets_a_sentence(tmp_path: Path) -> None:
    arguments = ["--use-fake-ui-for-media-stream=deny", "--use-fake-device-for-media-stream"]
    with chromium(tmp_path / "profile", *arguments) as page, served() as (address, _):
        _open(page, address)
        _press(page)
        _until(page, "not allowed")


def test_without_its_grader_the_page_says_so(tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as page, served(missing="/reading.asa") as (address, _):
        page.call("Page.navigate", url=address)
        _until(page, "Something went wrong")
        _until(page, "status 404")


def test_languages_access_and_policy(tmp_path: Path) -> None:
    with (
        chromium(tmp_path / "profile") as page,
        served() as (address, _),
        served() as (elsewhere, _),
    ):
        _open(page, address)
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
            _shot(page, language)
            for width in (320, 1100):
                page.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=800, deviceScaleFactor=1, mobile=False,
                )  # fmt: skip
                assert page.value("document.documentElement.scrollWidth") <= width
        page.call("Page.navigate", url=f"{address}?lang=es")
        _until(page, strings["es"]["ready"])

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
        _open(page, address)
        given = page.value("import('./strings.js').then(module => module.SENTENCES)")
        assert len(set(given)) == len(given) > 5
        for index, sentence in enumerate(given):
            _choose(page, str(index))
            assert page.value("document.getElementById('sentence').textContent") == sentence
        unheard = "document.getElementById('unheard').textContent"
        assert "every word" in page.value(unheard)
        _choose(page, "free")
        assert "not word by word" in page.value(unheard)
        assert page.value("words.checkVisibility()") is False

        _choose(page, "own")
        assert page.value("document.getElementById('sentence').checkVisibility()") is False
        page.value("words.focus()")
        page.call("Input.insertText", text="We call it <b>bear</b>.")
        assert page.value("words.value") == "We call it <b>bear</b>."
        assert "every word" in page.value(unheard)
        assert "English" not in page.value(unheard)
        for typed, said in (("Мы зовём это", "not look like English"), ("word " * 120, "a minute")):
            page.value(f"words.value = {typed!r}, words.dispatchEvent(new Event('input'))")
            assert said in page.value(unheard)
        _shot(page, "own")
        _accessible(page)


def test_the_keyboard_reaches_everything_in_order(tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as page, served() as (address, _):
        _open(page, address)
        _choose(page, "own")
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
