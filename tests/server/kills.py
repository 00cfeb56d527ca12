"""Servers that die at random moments, again and again, under streams that are spoken to the end.

    PYTHONPATH=tests python tests/server/kills.py --kills 100 --streams 16 --store postgresql

runs it long, with the acoustic grader, and prints what was seen; `test_kills.py` runs it short. No
final answer that a client was told may be lost, and every stream's must be the one of a server that
never died, to the last bit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from audio_samples import RATE_HZ, speech
from databases import postgresql_server
from server_client import listen, pcm

import asa_engine as asa

PROGRAM = "import sys; from asa_engine.cli.main import main; sys.exit(main())"
KEPT = ("grader", "scores", "prior", "validity", "receipt")
KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="


@dataclass
class Seen:
    """What happened.

    Attributes:
        kills: Servers that were killed.
        streams: Streams that were spoken to their end, each asked for twice.
        resumed: Times that one went on at a byte after its first.
        told_again: Final answers that came from the store.
    """

    kills: int = 0
    streams: int = 0
    resumed: int = 0
    told_again: int = 0


@dataclass
class Trial:
    """Servers on one store, and who speaks to them.

    Attributes:
        options: Of `serve`.
        place: The store.
        answers: PCM, one a speaker.
        expected: What each is to be told.
        servers: How many share the store; one after the other is killed.
        seed: Of the moments.
    """

    options: Sequence[str]
    place: str
    answers: Sequence[bytes]
    expected: Sequence[dict[str, Any]]
    servers: int = 1
    seed: int = 5
    seen: Seen = field(default_factory=Seen)
    _running: list[Any] = field(default_factory=list)
    _urls: list[str] = field(default_factory=list)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, kills: int) -> Seen:
        """Kill so often, and until a stream was gone on with; let what is spoken then end."""
        rng = random.Random(self.seed)
        try:
            for _ in range(self.servers):
                process = self._serve()
                self._running.append(process)
                self._urls.append(await self._address(process))
            async with aiohttp.ClientSession() as session:
                count = len(self.answers)
                speakers = [asyncio.create_task(self._speaker(session, n)) for n in range(count)]
                while self.seen.kills < kills or not self.seen.resumed:
                    await asyncio.sleep(rng.uniform(0.1, 2.0))
                    await self._kill_one(self.seen.kills % self.servers)
                    for speaker in speakers:
                        if speaker.done():
                            speaker.result()
                self._over.set()
                await asyncio.gather(*speakers)
        finally:
            for process in self._running:
                _kill(process)
        return self.seen

    async def _kill_one(self, number: int) -> None:
        _kill(self._running[number])
        self.seen.kills += 1
        self._running[number] = process = self._serve()
        self._urls[number] = await self._address(process)

    def _serve(self) -> Any:
        command = [sys.executable, "-c", PROGRAM, "serve", "--port", "0", "--workers", "1"]
        variables = {"ASA_STORE": self.place, "ASA_STORE_KEY": KEY}
        return subprocess.Popen(
            [*command, *self.options],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )

    async def _address(self, process: Any) -> str:
        line = await asyncio.to_thread(process.stdout.readline)
        assert line, "a server did not start"
        return str(line.split()[-1])

    async def _speaker(self, session: Any, number: int) -> None:
        turn = 0
        while not self._over.is_set():
            first = await self._answer(session, number, turn)
            again = await self._answer(session, number, turn)
            for part in KEPT:
                assert first["assessment"].get(part) == self.expected[number].get(part)
            assert first == again
            self.seen.streams += 1
            turn += 1

    async def _answer(self, session: Any, number: int, turn: int) -> Any:
        """Speak one stream, however often a server dies; return its final message."""
        query = f"sample_rate_hz={RATE_HZ}&id=stream-{turn:06d}-{number:06d}"
        tries = 0
        while True:
            tries += 1
            url = self._urls[(number + turn + tries) % self.servers]
            try:
                async with session.ws_connect(f"{url}/v1/stream?{query}") as socket:
                    message = await socket.receive_json()
                    if message["type"] == "final":
                        self.seen.told_again += 1
                    if message["type"] == "resume":
                        message = await self._speak(socket, number, message["offset"])
                    if message["type"] == "final":
                        return message
            except (aiohttp.ClientError, OSError, TypeError, IndexError):
                pass  # it died
            await asyncio.sleep(0.05)

    async def _speak(self, socket: Any, number: int, start: int) -> Any:
        self.seen.resumed += start > 0
        data = self.answers[number]
        for at in range(start, len(data), 3200):
            await socket.send_bytes(data[at : at + 3200])
            await asyncio.sleep(0.02)
        await socket.send_json({"type": "finish"})
        return (await listen(socket))[-1]


def _kill(process: Any) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def trial(place: str, options: Sequence[str], engine: asa.Engine, count: int, **more: Any) -> Trial:
    """Return a trial of so many speakers, with answers of 4 to 8 seconds."""
    answers = [pcm(speech(4.0 + n % 5, seed=n)) for n in range(count)]
    expected = [engine.assess((np.frombuffer(a, "<i2"), RATE_HZ)).to_dict() for a in answers]
    return Trial(options, place, answers, expected, **more)


def main() -> int:
    """Run a long trial."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    args = parser.parse_args()

    async def run(place: str) -> None:
        engine = asa.load("acoustic", threads=1)
        options = ("--bundle", "acoustic")
        made = trial(place, options, engine, args.streams, servers=args.servers)
        print(args.store, await made.run(args.kills))

    if args.store == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(run(str(Path(folder, "streams.db"))))
    else:
        with postgresql_server() as server:
            asyncio.run(run(server.new()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
