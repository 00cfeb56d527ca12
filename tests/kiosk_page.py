"""The kiosk page in Chromium as tests use it: opened, spoken to, read."""

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
from chromium import Page
from libasa import ROOT

from asa_engine.server.kiosk import KioskServer

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


def microphone(path: Path, samples: np.ndarray, rate_hz: int = 16000) -> list[str]:
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    return [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={path}%noloop",
    ]


def open_page(page: Page, address: str) -> None:
    page.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    page.call("Page.navigate", url=address)
    until(page, "Ready")


def until(page: Page, status: str) -> None:
    page.wait(f"document.getElementById('status')?.textContent.includes({status!r})")


def press(page: Page) -> None:
    """The button, by the keyboard; the browser takes it for a person's."""
    page.value("document.getElementById('record').focus()")
    page.press("Enter")


def record(page: Page, seconds: float) -> None:
    press(page)
    until(page, "Listening")
    time.sleep(seconds)
    press(page)


def scores_of(page: Page) -> dict[str, float]:
    found = page.value(
        "[...document.querySelectorAll('#scores li')]"
        ".map(item => [item.dataset.name, item.dataset.value])"
    )
    return {name: float(value) for name, value in found}


def recording_of(page: Page) -> tuple[np.ndarray, int]:
    """The WAV that the page plays back."""
    said = page.value(
        "recording.arrayBuffer().then(b => "
        "btoa(Array.from(new Uint8Array(b), c => String.fromCharCode(c)).join('')))"
    )
    data = base64.b64decode(said)
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
    return soundfile.read(io.BytesIO(data), dtype="int16")


def assess(audio: Path, text: str) -> dict[str, Any]:
    """What the command says, on the kernels that WebAssembly has."""
    done = subprocess.run(
        [sys.executable, "-m", "asa_engine", "assess", audio, "--text", text, "--json",
         "--backend", "native", "--precision", "int8", "--threads", "1"],
        env=os.environ | {"ASA_CPU_ISA": "generic"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def values(said: dict[str, Any]) -> dict[str, float]:
    return {name: score["value"] for name, score in said["scores"].items()}


def words_of(page: Page) -> list[tuple[str, str, float | None]]:
    """Text, error and score of the words, as the page tells them."""
    found = page.value(
        "[...document.querySelectorAll('#read .word')].map(word => "
        "[word.dataset.text, word.dataset.error, word.dataset.value])"
    )
    return [(text, error, float(value) if value else None) for text, error, value in found]


def type_text(page: Page, text: str) -> None:
    choose(page, "own")
    page.value(f"words.value = {text!r}, words.dispatchEvent(new Event('input'))")


def as_the_engine(page: Page, said: dict[str, Any]) -> None:
    """Words and errors are the engine's, and scores but for the last bits."""
    found = words_of(page)
    assert [(text, error) for text, error, _ in found] == [
        (word["text"], word["error"]) for word in said["words"]
    ]
    for (_, _, value), word in zip(found, said["words"], strict=True):
        score = word.get("score")
        assert value == (score and pytest.approx(score["value"], abs=1e-3))


def shot(page: Page, name: str) -> None:
    """Pictures to look at, where KIOSK_SHOTS names a folder."""
    if "KIOSK_SHOTS" in os.environ:
        for width, height in ((1100, 1000), (360, 780)):
            page.screenshot(Path(os.environ["KIOSK_SHOTS"]) / f"{name}-{width}.png", width, height)


def accessible(page: Page) -> None:
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


def choose(page: Page, value: str) -> None:
    page.value(f"choice.value = {value!r}, choice.dispatchEvent(new Event('change'))")


def widths_of(page: Page) -> dict[int, int]:
    """How wide the page is on a small phone of 320 pixels, and on a screen of 1,100."""
    found = {}
    for width in (320, 1100):
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=800, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        found[width] = page.value("document.documentElement.scrollWidth")
    return found
