"""What a learner who speaks costs a server, alone and on Ray: CPU time, by kind of process.

    python benchmarks/stream_costs.py            # one server
    python benchmarks/stream_costs.py --ray      # Serve's proxy, a replica, the rest of Ray

Streams of real speech in frames of 100 ms, at the speed of speech, kept in a store of SQLite. CPU
time, not a clock's, so that what else the machine does matters less. Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
import soundfile

SPEECH = Path(__file__).parents[1] / "examples/audio/demo.flac"
FRAME_S = 0.1
KINDS = {"ray::ServeReplica": "replica", "ray::ProxyActor": "proxy", "asa_engine serve": "server"}


def _cpu_s(root: int) -> Counter[str]:
    """Return the CPU seconds of a process and all below it, by kind."""
    parents: dict[int, int] = {}
    spent: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
        spent[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found: Counter[str] = Counter()
    for process, seconds in spent.items():
        above = process
        while above not in (root, 0):
            above = parents.get(above, 0)
        if above == root:
            command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            kind = next((kind for text, kind in KINDS.items() if text in command), "rest of Ray")
            found[kind] += seconds
    return found


async def _speak(session: aiohttp.ClientSession, url: str, number: int, seconds: float) -> None:
    samples, rate_hz = soundfile.read(SPEECH, dtype="int16")
    pcm, size = samples.tobytes(), int(rate_hz * FRAME_S) * 2
    await asyncio.sleep(number * 0.37 % 4.0)  # windows do not close together
    name = f"stream-{os.getpid()}-{number:08d}"
    query = f"?sample_rate_hz={rate_hz}&id={name}"
    async with session.ws_connect(f"{url}/v1/stream{query}") as socket:
        start = time.monotonic()
        for frame in range(int(seconds / FRAME_S)):
            at = frame * size % (len(pcm) - size)
            await socket.send_bytes(pcm[at : at + size])
            await asyncio.sleep(max(0.0, start + (frame + 1) * FRAME_S - time.monotonic()))
        await socket.send_json({"type": "finish"})
        last = [message.json()["type"] async for message in socket][-1]
        assert last == "final", last


async def _measured(url: str, process: int, streams: int, seconds: float) -> Counter[str]:
    async with aiohttp.ClientSession() as session:
        await _speak(session, url, 0, 4.0)  # all is warm
        before = _cpu_s(process)
        each = [_speak(session, url, number, seconds) for number in range(1, streams + 1)]
        await asyncio.gather(*each)
        return Counter({kind: s - before[kind] for kind, s in _cpu_s(process).items()})


def main() -> None:
    """Start a server, speak to it, and print what that took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--streams", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "asa_engine", "serve", "--port", "0", "--workers", "1"]
        command += ["--bundle", "acoustic", "--store", str(Path(folder, "streams.db"))]
        command += ["--ray", "--max-replicas", "1"] if args.ray else []
        errors = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            audio_s = args.streams * args.seconds
            spent = asyncio.run(_measured(url, server.pid, args.streams, args.seconds))
            server.terminate()
    print(f"{args.streams} streams of {args.seconds:g} s, ms of CPU for a second of speech:")
    for kind, seconds in sorted(spent.items()):
        print(f"  {kind:12} {1000 * seconds / audio_s:6.2f}")


if __name__ == "__main__":
    main()
