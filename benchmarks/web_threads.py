"""The web package on one thread and on more, in headless Chromium: seconds, memory, same scores.

    python -m benchmarks.web_threads [THREADS ...]

needs build/wasm/package (`make wasm`), Chromium and psutil. Every round has a browser of its own;
rounds take turns and the fastest of each counts, since other work on the machine only adds. Memory
is what the page's process has resident at the end beyond what it had before the grader was opened.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chromium import chromium

from asa_engine.bundle import Bundle
from asa_engine.measuring.host import describe_host, load_average
from asa_engine.server.kiosk import KioskServer
from asa_export.device import acoustic_file

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "build" / "wasm" / "package"
DEMO = ROOT / "examples" / "audio" / "demo.flac"
CHUNK = 1600
ROUNDS = 9
TIMES = ("open_s", "score_s")
# As a page should: in a worker, fed in blocks.
WORKER = f"""
import samples from "./samples.js";
import {{ Grader }} from "./index.js";
onmessage = async ({{ data }}) => {{
  const opening = performance.now();
  const grader = await Grader.open("grader.asa", data);
  const start = performance.now();
  const stream = grader.stream();
  for (let at = 0; at < samples.length; at += {CHUNK}) {{
    stream.feed(samples.subarray(at, at + {CHUNK}));
  }}
  const {{ scores }} = stream.finish();
  const end = performance.now();
  postMessage({{ open_s: (start - opening) / 1e3, score_s: (end - start) / 1e3, scores,
    threads: grader.describe().threads }});
}};
"""
RUN = """new Promise((done, failed) => {
  const worker = new Worker("score.js", { type: "module" });
  worker.onmessage = ({ data }) => done(data);
  worker.onerror = failed;
  worker.postMessage(OPTIONS);
})"""


def _lay_out(folder: Path) -> float:
    """Write what the page is made of; return the seconds of its speech."""
    shutil.copytree(PACKAGE, folder)
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    coded = base64.b64encode(samples.tobytes()).decode()
    bytes_of = f"Uint8Array.from(atob('{coded}'), (c) => c.charCodeAt(0))"
    (folder / "samples.js").write_text(f"export default new Int16Array({bytes_of}.buffer);\n")
    (folder / "score.js").write_text(WORKER)
    (folder / "index.html").write_text("<!doctype html><title>Threads</title>")
    (folder / "grader.asa").write_bytes(acoustic_file(Bundle.open("acoustic"), "fp32", "acoustic"))
    return len(samples) / rate_hz


def _resident_mb() -> float:
    """Return what Chromium's pages have resident."""
    found = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):  # of the browser before
            if "--type=renderer" in process.cmdline():
                found += process.memory_info().rss
    return found / 1e6


def _measure(profile: Path, address: str, precision: str, threads: int) -> dict[str, Any]:
    with chromium(profile) as page:
        page.call("Page.navigate", url=address)
        page.wait("document.title === 'Threads'")
        before_mb = _resident_mb()
        options = f"{{ precision: '{precision}', threads: {threads} }}"
        found: dict[str, Any] = page.value(RUN.replace("OPTIONS", options))
        assert found["threads"] == threads
        return {**found, "resident_mb": _resident_mb() - before_mb}


def main() -> None:
    """Print a line for every precision and number of threads."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("threads", nargs="*", type=int, default=[1, 2], metavar="THREADS")
    counts = parser.parse_args().threads
    print(describe_host(), f"load {load_average()}")
    with tempfile.TemporaryDirectory() as made:
        speech_s = _lay_out(Path(made) / "page")
        server = KioskServer(Path(made) / "page")
        Thread(target=server.serve_forever, daemon=True).start()
        for precision in ("fp32", "int8"):
            rounds = [
                [
                    _measure(
                        Path(made) / f"{precision}-{turn}-{count}", server.address, precision, count
                    )
                    for count in counts
                ]
                for turn in range(ROUNDS)
            ]
            for place, count in enumerate(counts):
                each = [measured[place] for measured in rounds]
                assert all(found["scores"] == rounds[0][0]["scores"] for found in each)
                open_s, score_s = (min(found[name] for found in each) for name in TIMES)
                most_mb = max(found["resident_mb"] for found in each)
                print(
                    f"{precision}, threads: {count}: opening {open_s:.2f} s, {speech_s:.1f} s of "
                    f"speech {score_s:.3f} s ({1e3 * score_s / speech_s:.1f} ms a second), "
                    f"{most_mb:.0f} MB",
                    flush=True,
                )
        server.shutdown()


if __name__ == "__main__":
    main()
