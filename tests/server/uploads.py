"""Short uploads, one after another, to a real server: its memory may not grow with them.

    PYTHONPATH=tests:tests/server python tests/server/uploads.py --uploads 10000

prints the resident memory of the server's processes as it goes, and ends with 1 where the last
quarter's median is more than `--bound-mib` above the second quarter's; `test_uploads.py` runs it
short. The first quarter is left out: caches and the allocator's pools fill. Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import soundfile
from audio_samples import RATE_HZ, speech

PROGRAM = "import sys; from asa_engine.cli.main import main; sys.exit(main())"
FORMS = (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None))
AT_ONCE = 4
QUARTERS = 4
MIB = 2**20


@dataclass
class Memory:
    """Resident memory of a server's processes.

    Attributes:
        mib: One sample after each so many uploads.
    """

    mib: list[float] = field(default_factory=list)

    @property
    def growth_mib(self) -> float:
        """The last quarter's median less the second's."""
        size = len(self.mib) // QUARTERS
        if size < 1:
            raise ValueError("too few samples for quarters")
        second, last = self.mib[size : 2 * size], self.mib[-size:]
        return statistics.median(last) - statistics.median(second)


def resident_mib(root: int) -> dict[int, float]:
    """Return the resident memory of a process and of all below it, by process."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended
            continue
        parents[int(folder.name)] = int(stat[1])
    found: dict[int, float] = {}
    for process in parents:
        above = process
        while above not in (root, 0):
            above = parents.get(above, 0)
        if above == root:
            try:
                pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            except OSError:
                continue
            found[process] = pages * os.sysconf("SC_PAGE_SIZE") / MIB
    return found


def recordings() -> list[bytes]:
    """Return short answers, of several lengths, in every container that is written here."""
    made = []
    for number in range(4):
        samples = speech(1.0 + 0.7 * number, seed=number)
        for kind, subtype in FORMS:
            file = io.BytesIO()
            soundfile.write(file, samples, RATE_HZ, format=kind, subtype=subtype)
            made.append(file.getvalue())
    return made


async def _upload(
    url: str, process: int, count: int, every: int, say: Callable[..., Any]
) -> Memory:
    memory, bodies, told = Memory(), recordings(), 0
    async with aiohttp.ClientSession() as session:

        async def one(number: int) -> None:
            async with session.post(
                f"{url}/v1/assess", data=bodies[number % len(bodies)]
            ) as answer:
                said = await answer.json()
                assert answer.status == 200, said

        sampled = max(AT_ONCE, count // 40)
        for done in range(0, count, AT_ONCE):
            await asyncio.gather(*(one(done + n) for n in range(min(AT_ONCE, count - done))))
            if (done + AT_ONCE) // sampled > len(memory.mib):
                memory.mib.append(sum(resident_mib(process).values()))
            if (done + AT_ONCE) // every > told:
                told += 1
                each = ", ".join(f"{mib:.1f}" for mib in resident_mib(process).values())
                say(f"{done + AT_ONCE:6} uploads: {each} MiB resident", flush=True)
    return memory


def trial(
    options: Sequence[str], count: int, every: int = 500, say: Callable[..., Any] = print
) -> Memory:
    """Upload so many to a server with these options of `serve`; return what memory it took."""
    command = [sys.executable, "-c", PROGRAM, "serve", "--port", "0", "--workers", "2", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line, "the server did not start"
            return asyncio.run(_upload(line.split()[-1], server.pid, count, every, say))
        finally:
            server.terminate()


def main() -> int:
    """Run a long trial."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uploads", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=500, help="uploads between two lines")
    parser.add_argument("--bound-mib", type=float, default=8.0)
    parser.add_argument("--bundle", default="acoustic")
    args = parser.parse_args()
    growth_mib = trial(("--bundle", args.bundle), args.uploads, args.every).growth_mib
    print(f"last quarter over the second: {growth_mib:+.1f} MiB; {args.bound_mib:g} are let pass")
    return int(growth_mib > args.bound_mib)


if __name__ == "__main__":
    sys.exit(main())
