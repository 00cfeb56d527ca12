"""The web package with threads, in Chromium: the bits of one thread, and one where none may be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import soundfile
from chromium import CHROMIUM, Page, chromium
from libasa import ROOT

from asa_engine.server.kiosk import KioskServer

DEMO = ROOT / "examples" / "audio" / "demo.flac"
PACKAGE = ROOT / "build" / "wasm" / "package"
KIOSK = ROOT / "build" / "kiosk"
SECONDS = 5
TEXT = "Last summer I went to the mountains with my family."
PARTS = ("scores", "words", "prior", "features", "validity")
# How the module's workers come and go.
COUNT = """
globalThis.workers = { started: 0, ended: 0 };
globalThis.Worker = class extends Worker {
  constructor(...args) { super(...args); workers.started += 1; }
  terminate() { workers.ended += 1; super.terminate(); }
};
"""
SCORE = """
import("./index.js").then(async ({ Grader }) => {
  const samples = new Int16Array(await (await fetch("samples.raw")).arrayBuffer());
  const grader = await Grader.open(FILE, OPTIONS);
  const [whole, cut] = [samples.length, 3000].map((chunk) => {
    const stream = grader.stream(...TEXTS);
    for (let at = 0; at < samples.length; at += chunk) {
      stream.feed(samples.subarray(at, at + chunk));
    }
    const result = stream.finish();
    stream.close();
    return result;
  });
  const about = grader.describe();
  const before = { ...workers };
  grader.close();
  return { whole, cut, about, before, after: workers };
})
"""

pytestmark = [
    pytest.mark.skipif(not (PACKAGE / "asa-threads.wasm").is_file(), reason="not built: make wasm"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not here"),
]


class _Handler(SimpleHTTPRequestHandler):
    isolates = True

    def end_headers(self) -> None:
        if self.isolates:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path, *, isolates: bool = True) -> Iterator[str]:
    kind = type("Handler", (_Handler,), {"isolates": isolates})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def folder(grader_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "page"
    shutil.copytree(PACKAGE, made)
    shutil.copy(grader_file, made / "grader.asa")
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    (made / "samples.raw").write_bytes(samples[: SECONDS * rate_hz].tobytes())
    (made / "index.html").write_text(
        "<!doctype html><title>Threads</title><link rel=icon href=data:,>"
    )
    return made


def _open(page: Page, address: str) -> None:
    page.call("Page.navigate", url=address)
    page.wait("document.title === 'Threads'")
    page.value(f"{COUNT}; 0")


def _score(page: Page, address: str, options: str, text: str | None = None) -> dict[str, Any]:
    _open(page, address)
    file, texts = ("grader.asa", []) if text is None else ("reading.asa", [text])
    script = SCORE.replace("OPTIONS", options).replace("FILE", json.dumps(file))
    found = page.value(script.replace("TEXTS", json.dumps(texts)))
    for part in PARTS:
        assert found["cut"].get(part) == found["whole"].get(part)
    return found


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_scores_are_the_same_bits_on_any_number_of_threads(
    folder: Path, tmp_path: Path, precision: str
) -> None:
    with chromium(tmp_path / "profile") as page, served(folder) as address:
        one, two, three = (
            _score(page, address, f"{{ precision: '{precision}', threads: {threads} }}")
            for threads in (1, 2, 3)
        )
        for threads, found in ((1, one), (2, two), (3, three)):
            assert found["about"]["threads"] == threads
            assert found["about"]["precision"] == precision
            # Workers end with what needs them.
            assert found["before"] == {"started": threads - 1, "ended": 0}
            assert found["after"] == {"started": threads - 1, "ended": threads - 1}
            for part in PARTS:
                assert found["whole"].get(part) == one["whole"].get(part)
        usual = _score(page, address, "{}")
        assert usual["about"]["threads"] == min(4, page.value("navigator.hardwareConcurrency"))
        refused = "import('./index.js').then(m => m.Grader.open('grader.asa', { threads: 0 }))"
        assert page.value(f"{refused}.catch(error => error.status)") == "argument"
        assert page.complaints == []


def test_a_reading_is_judged_alike(folder: Path, reading_file: Path, tmp_path: Path) -> None:
    made = shutil.copytree(folder, tmp_path / "page")
    shutil.copy(reading_file, made / "reading.asa")
    with chromium(tmp_path / "profile") as page, served(made) as address:
        one, two = (_score(page, address, f"{{ threads: {threads} }}", TEXT) for threads in (1, 2))
        assert (one["about"]["threads"], two["about"]["threads"]) == (1, 2)
        found = [word["text"] for word in one["whole"]["words"] if word["error"] != "insertion"]
        assert found == TEXT.removesuffix(".").split()
        for part in PARTS:
            assert two["whole"].get(part) == one["whole"].get(part)


def test_workers_outlive_the_grader_until_its_streams_are_closed(
    folder: Path, tmp_path: Path
) -> None:
    with chromium(tmp_path / "profile") as page, served(folder) as address:
        _open(page, address)
        page.value(
            "import('./index.js').then(m => m.Grader.open('grader.asa', { threads: 2 }))"
            ".then(grader => { globalThis.stream = grader.stream(); grader.close(); })"
        )
        assert page.value("workers") == {"started": 1, "ended": 0}
        page.value("stream.feed(new Float32Array(80000).map(() => Math.random() - 0.5)), 0")
        assert page.value("stream.finish().validity.peak_dbfs") > -7
        page.value("stream.close(), stream.close()")
        assert page.value("workers") == {"started": 1, "ended": 1}


def test_a_page_that_is_not_isolated_has_one(folder: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as page, served(folder, isolates=False) as address:
        found = _score(page, address, "{ threads: 4 }")
        assert found["about"]["threads"] == 1
        assert found["after"] == {"started": 0, "ended": 0}
        assert not [url for url in page.asked if "asa-threads" in url]


@pytest.mark.parametrize("is_there", [False, True])
def test_workers_that_do_not_start_leave_one_thread(
    folder: Path, tmp_path: Path, is_there: bool
) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    worker = broken / "asa-threads.worker.js"
    worker.unlink()
    if is_there:
        worker.touch()  # and never answers
    with chromium(tmp_path / "profile") as page, served(broken) as address:
        found = _score(page, address, "{ threads: 2 }")
        assert found["about"]["threads"] == 1
        assert found["whole"]["scores"]
        assert found["before"] == {"started": 1, "ended": 1}


def test_a_damaged_file_leaves_no_worker(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "grader.asa").write_bytes((folder / "grader.asa").read_bytes()[:-1])
    with chromium(tmp_path / "profile") as page, served(broken) as address:
        _open(page, address)
        opened = "import('./index.js').then(m => m.Grader.open('grader.asa', { threads: 3 }))"
        assert page.value(f"{opened}.catch(error => error.status)") == "file"
        assert page.value("workers") == {"started": 2, "ended": 2}


@pytest.mark.skipif(not (KIOSK / "grader.asa").is_file(), reason="not built: make kiosk")
def test_the_kiosk_has_threads_also_without_a_network(tmp_path: Path) -> None:
    server = KioskServer(KIOSK)
    Thread(target=server.serve_forever, daemon=True).start()
    with chromium(tmp_path / "profile") as page:
        page.call("Page.navigate", url=server.address)
        page.value("navigator.serviceWorker.ready.then(() => 0)")
        page.wait("navigator.serviceWorker.controller")
        server.files.clear()  # connections that are kept alive outlive a server
        page.call("Page.reload")
        opened = "import('./web/index.js').then(m => m.Grader.open('grader.asa', { threads: 2 }))"
        page.wait("navigator.serviceWorker.controller && document.readyState === 'complete'")
        assert page.value(f"{opened}.then(grader => grader.describe().threads)") == 2
    server.shutdown()
    server.server_close()
