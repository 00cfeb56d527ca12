"""Streams in real time against a server, as clients see it; beyond its places, who is refused.

    python benchmarks/load.py --streams 64 \\
        --server 'now=asa-engine serve --port 0 --bundle acoustic --workers 2 --max-streams 64' \\
        --server 'former=FORMER/bin/asa-engine serve --port 0 --workers 2 --max-streams 64'

Every server that is named is started, measured and stopped, one after another in every round;
`NAME=URL` measures one that runs. Give all the same number of workers, and `--streams` as
`--max-streams`. The protocol is what releases since the first have in common: `sample_rate_hz`,
frames, `finish`; the first release's grader is called `acoustic` today. For each load in `--times`
so many times `--streams` learners come; who is refused comes again after the time that the server
tells (`retry_after_s`; two seconds where it tells none) until the others have ended.

How late a provisional score is counts from the frame that closed its window. Which frame that is
is learned from two learners alone, as all speak the same. The last score counts from `finish`.
With `--hold` it ends with 1 where the first server's p95 is 100 ms or more at its places, or 150 ms
beyond, a stream that was taken in did not end with its score, or, beyond, nobody was refused or
somebody was not told when to come again. Learners and server share this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import soundfile

SPEECH = Path(__file__).parents[1] / "examples/audio/demo.flac"
FRAME_S = 0.1
USUAL_WAIT_S = 2.0
HELD_S, HELD_BEYOND_S = 0.1, 0.15  # at the 95th percentile


@dataclass
class Heard:
    """What the learners of one load were told.

    Attributes:
        windows_s: How late provisional scores were.
        scores_s: How long after `finish` the last scores came.
        finished: Streams that ended with a score.
        broken: Streams that ended otherwise.
        refused: Times that a learner was turned away.
        told_when: How many of those were told when to come again.
    """

    windows_s: list[float] = field(default_factory=list)
    scores_s: list[float] = field(default_factory=list)
    finished: int = 0
    broken: int = 0
    refused: int = 0
    told_when: int = 0

    def line(self) -> str:
        """Return it in words."""
        return (
            f"{self.finished} scored, {self.broken} broken, {self.refused} times refused "
            f"({self.told_when} told when to come again); "
            f"provisional {_percentiles(self.windows_s)}; last {_percentiles(self.scores_s)}"
        )

    def holds(self, *, beyond: bool) -> bool:
        """Tell whether it is as a server promises."""
        late_s = max(_p95(self.windows_s), _p95(self.scores_s))
        if beyond and not 0 < self.refused == self.told_when:
            return False
        return not self.broken and late_s < (HELD_BEYOND_S if beyond else HELD_S)


def _p95(seconds: list[float]) -> float:
    return float(np.percentile(seconds, 95)) if seconds else float("inf")


def _percentiles(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    found = " / ".join(f"{1e3 * q:.0f}" for q in np.percentile(seconds, (50, 95, 99)))
    return f"p50 / p95 / p99 {found} ms of {len(seconds)}"


class Load:
    """Learners who all say the same to one server.

    Args:
        url: Of the server.
        seconds: How long each speaks.
    """

    def __init__(self, url: str, seconds: float) -> None:
        samples, rate_hz = soundfile.read(SPEECH, dtype="int16")
        self._url = f"{url}/v1/stream?sample_rate_hz={rate_hz}"
        pcm, size = samples.tobytes(), int(rate_hz * FRAME_S) * 2
        self._frames = [
            pcm[(at := number * size % (len(pcm) - size)) : at + size]
            for number in range(round(seconds / FRAME_S))
        ]
        self._closing: dict[int, int] = {}  # windows -> the frame that closes the last of them

    async def learn(self) -> None:
        """Find out which frames close windows."""
        async with aiohttp.ClientSession() as session:
            for _ in range(2):
                await self._speak(session, Heard(), learning=True)

    async def run(self, learners: int) -> Heard:
        """Have so many learners speak; return what they were told."""
        heard = Heard()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            going = {asyncio.create_task(self._come(session, heard, n)) for n in range(learners)}
            # Who was refused comes again until those who were taken in have ended.
            await asyncio.wait(going, timeout=len(self._frames) * FRAME_S + 2 * USUAL_WAIT_S + 4.0)
            for task in going:
                task.cancel()
            for ended in await asyncio.gather(*going, return_exceptions=True):
                if isinstance(ended, BaseException):
                    # Those who never got a place, or got one too late to end, say nothing.
                    heard.broken += not isinstance(ended, asyncio.CancelledError)
        return heard

    async def _come(self, session: aiohttp.ClientSession, heard: Heard, number: int) -> None:
        await asyncio.sleep(number * 0.37 % 4.0)  # windows do not close together
        while (wait_s := await self._speak(session, heard)) is not None:
            await asyncio.sleep(wait_s)

    async def _speak(
        self, session: aiohttp.ClientSession, heard: Heard, *, learning: bool = False
    ) -> float | None:
        """Speak once; return when to come again where there is no place."""
        sent_s: list[float] = []
        async with session.ws_connect(self._url) as socket:
            speaking = asyncio.create_task(self._send(socket, sent_s))
            try:
                async for message in socket:
                    now_s, told = time.perf_counter(), message.json()
                    if told["type"] == "provisional":
                        if learning:
                            latest = min(len(sent_s), len(self._frames)) - 1
                            known = self._closing.get(told["windows"], latest)
                            self._closing[told["windows"]] = min(known, latest)
                        elif (frame := self._closing.get(told["windows"])) is not None:
                            heard.windows_s.append(now_s - sent_s[frame])
                    elif told["type"] == "final":
                        heard.scores_s.append(now_s - sent_s[-1])
                        heard.finished += 1
                        return None
                    elif told["error"] == "Full":
                        heard.refused += 1
                        heard.told_when += "retry_after_s" in told
                        return float(told.get("retry_after_s", USUAL_WAIT_S))
                    else:
                        break
            finally:
                speaking.cancel()
        heard.broken += 1
        return None

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, sent_s: list[float]) -> None:
        start_s = time.perf_counter()
        with contextlib.suppress(ConnectionError):  # what the server said is heard by who listens
            for number, frame in enumerate(self._frames):
                sent_s.append(time.perf_counter())
                await socket.send_bytes(frame)
                due_s = start_s + (number + 1) * FRAME_S
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            sent_s.append(time.perf_counter())
            await socket.send_json({"type": "finish"})


@contextlib.contextmanager
def _running(place: str) -> Iterator[str]:
    """Start a server, for the block, and yield its address; or yield that of one that runs."""
    if place.startswith(("http://", "https://")):
        yield place
        return
    with subprocess.Popen(
        shlex.split(place), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"it did not start: {place}")
            yield line.split()[-1]
        finally:
            process.terminate()


async def _measured(url: str, args: argparse.Namespace) -> dict[float, Heard]:
    load = Load(url, args.seconds)
    await load.learn()
    return {times: await load.run(round(times * args.streams)) for times in args.times}


def main() -> int:
    """Measure every server in turn, and print what its learners saw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", action="append", required=True, metavar="NAME=COMMAND|URL")
    parser.add_argument("--streams", type=int, default=32, help="places of the server")
    parser.add_argument("--times", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    parser.add_argument("--seconds", type=float, default=30.0, help="that each learner speaks")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--hold", action="store_true", help="fail where it does not hold")
    args = parser.parse_args()
    held = True
    for number in range(args.rounds):
        for which, server in enumerate(args.server):
            name, _, place = server.partition("=")
            with _running(place) as url:
                for times, heard in asyncio.run(_measured(url, args)).items():
                    print(f"round {number + 1}, {name}, {times:g} x {args.streams}: {heard.line()}")
                    held &= which > 0 or heard.holds(beyond=times > 1)
    return int(args.hold and not held)


if __name__ == "__main__":
    sys.exit(main())
