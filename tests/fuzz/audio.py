"""Fuzz the audio front: bytes of every container, changed where it hurts, for so many seconds.

python tests/fuzz/audio.py --seconds 120 [--seed N]

Whatever comes in gives samples or an `AudioError`: never another exception, a crash, a hang, memory
without bound, a line of a C library, or more sound than the bytes can hold. Hypothesis chooses the
changes and shrinks what it finds; the work is done in a child process, which a crash may take with
it. The input at fault is left in build/fuzz.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from asa_engine.audio import SAMPLE_RATE_HZ, read_audio
from asa_engine.errors import AudioError

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
FOUND = Path("build/fuzz")

MEMORY_BYTES = 6 * 2**30  # of addresses; libraries map much that they never touch
GROWTH_BYTES = 512 * 2**20  # of what is touched
HANG_S = 20.0
ROUND = 300

# The longest sound that a byte can stand for. FLAC: a silent frame of 65,535 samples takes 11
# bytes, at 4 kHz; Opus: a packet of 120 ms takes 2; MPEG audio: 8 kbit/s; WAV: GSM's 33 bytes for
# 40 ms, at half its rate. Other lossless codecs are as good at silence as FLAC.
S_A_BYTE = {".wav": 1 / 600, ".mp3": 1 / 990, ".mp2": 1 / 990, ".opus": 0.06, ".ogg": 0.5}
MOST_S_A_BYTE = 1.6

# Lengths and counts that were believed too easily before.
TELLING = [
    bytes(4),
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\x80",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x01",
    b"\x01\0\0\0",
    bytes(8),
    b"\xff" * 8,
]
MAGICS = [b"RIFF", b"fLaC", b"OggS", b"ID3\x04\0\0", b"ftyp", b"data", b"moov", b"Xing", b"TAG"]


@st.composite
def changed(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a file's name and its bytes with a few changes."""
    path = draw(st.sampled_from(CORPUS))
    data = bytearray(path.read_bytes())
    for _ in range(draw(st.integers(0, 6))):
        near_head = draw(st.booleans())
        at = draw(st.integers(0, min(len(data), 256 if near_head else len(data))))
        match draw(st.sampled_from(("put", "flip", "drop", "insert", "cut", "join", "move"))):
            case "put":
                value = draw(st.sampled_from(TELLING + MAGICS))
                data[at : at + len(value)] = value
            case "flip":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "drop":
                del data[at : at + draw(st.integers(1, 3000))]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=200))
            case "cut":
                del data[at:]
            case "join":
                data += draw(st.sampled_from(CORPUS)).read_bytes()
            case "move":
                end = min(len(data), at + draw(st.integers(1, 3000)))
                data[:0] = data[at:end]
    return path.suffix, bytes(data)


def check(suffix: str, data: bytes) -> None:
    """Read the bytes; raise AssertionError where they get what they must not."""
    (FOUND / "current").write_bytes(data)
    begun = time.monotonic()
    try:
        samples = read_audio(data)
    except AudioError as error:
        samples, said = np.zeros(0, np.float32), str(error)
    else:
        said = ""
    assert time.monotonic() - begun < HANG_S, "it takes too long"
    assert "\n" not in said, said
    assert np.isfinite(samples).all(), "samples that are not finite"
    most_s = len(data) * max(S_A_BYTE.get(suffix, MOST_S_A_BYTE), joined(data)) + 1
    assert len(samples) / SAMPLE_RATE_HZ <= most_s, "more sound than the bytes can hold"


def joined(data: bytes) -> float:
    """Return what a byte may stand for if a file of another kind begins in it."""
    dense = (b"fLaC", b"OggS", b"ftyp", b"alac", b"wvpk", b"TTA1", b"\x1a\x45\xdf\xa3")
    return MOST_S_A_BYTE if any(magic in data for magic in dense) else 0.0


def work(first_seed: int, end: float) -> int:
    """Fuzz until the time is over; return how many inputs there were."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    done, number = 0, first_seed
    for path in CORPUS:
        check(path.suffix, path.read_bytes())
    before = _touched()
    while time.monotonic() < end:
        number += 1

        @seed(number)
        @settings(
            max_examples=ROUND,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )
        @given(changed())
        def one(given_: tuple[str, bytes]) -> None:
            nonlocal done
            done += 1
            if time.monotonic() < end:
                check(*given_)

        one()
        assert _touched() - before < GROWTH_BYTES, "memory grows"
    return done


def _touched() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    """Run the fuzzer in a child process and tell how that ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        done = work(args.seed, time.monotonic() + args.seconds)
        print(f"{done} inputs, {_touched() / 2**20:.0f} MiB at most")
        return 0
    FOUND.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--worker", f"--seconds={args.seconds}"]
    try:
        child = subprocess.run(
            [*command, f"--seed={args.seed}"],
            stderr=subprocess.PIPE,
            text=True,
            timeout=args.seconds + 10 * HANG_S,
        )
    except subprocess.TimeoutExpired:
        print(f"fuzz-audio: a hang; the input is {FOUND / 'current'}", file=sys.stderr)
        return 1
    if child.returncode or child.stderr:
        print(child.stderr[-8000:], file=sys.stderr)
        kept = FOUND / f"found-{os.getpid()}"
        (FOUND / "current").replace(kept)
        print(f"fuzz-audio: exit code {child.returncode}; the input is {kept}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
