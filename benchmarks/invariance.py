"""How far a score moves by what is not speech: silence, noise, gain, offset, hum, band, codecs.

    python benchmarks/invariance.py ../shared/data/speechocean762 [--bundle FOLDER] [--front 1]

Prints a table: the mean and the worst change of one score over recordings of dev speakers, and how
many of them can still be judged. Changed recordings are rounded to 16 bits, as files are. MP3 and
Opus need ffmpeg; their rows say so where it is missing. Deterministic; about two minutes on a core.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import audio_samples as made
from audio_samples import RATE_HZ, Samples

import asa_engine as asa
from asa_engine.audio import read_audio
from asa_engine.evaluation.manifest import read_manifest
from asa_engine.evaluation.splits import dev_split

Change = Callable[[Samples], Samples]
ROOM_DBFS = -60.0


def around(surround: Samples, *, before: bool = True, behind: bool = True) -> Change:
    """Put something before a recording, behind it, or both."""
    nothing = surround[:0]
    parts = (surround if before else nothing, surround if behind else nothing)
    return lambda samples: np.concatenate((parts[0], samples, parts[1]))


def on_top(disturbance: Callable[[float], Samples]) -> Change:
    """Add something of the recording's length."""

    def change(samples: Samples) -> Samples:
        added = disturbance(len(samples) / RATE_HZ + 1)
        return samples + added[: len(samples)]

    return change


def resampled(rate_hz: int) -> Change:
    """Pass a recording through another rate."""

    def change(samples: Samples) -> Samples:
        there = soxr.resample(samples, RATE_HZ, rate_hz, "VHQ")
        return soxr.resample(there, rate_hz, RATE_HZ, "VHQ")

    return change


def coded(codec: str, kind: str, bits_a_second: str) -> Change:
    """Encode a recording with ffmpeg and decode it again."""

    def change(samples: Samples) -> Samples:
        wav = io.BytesIO()
        soundfile.write(wav, samples, RATE_HZ, format="WAV", subtype="PCM_16")
        ffmpeg = ("ffmpeg", "-v", "error", "-i", "-")
        options = ("-c:a", codec, "-b:a", bits_a_second, "-f", kind, "-")
        packed = subprocess.run((*ffmpeg, *options), input=wav.getvalue(), capture_output=True)
        packed.check_returncode()
        out = ("-ar", str(RATE_HZ), "-f", "f32le", "-")
        raw = subprocess.run((*ffmpeg, *out), input=packed.stdout, capture_output=True, check=True)
        return np.frombuffer(raw.stdout, "<f4")

    return change


def changes() -> list[tuple[str, tuple[float, float], Change]]:
    """Return the rows: a name, the mean and the worst change aimed at, and the change."""
    near, level, band = (0.05, 0.3), (0.05, 0.2), (0.15, 0.5)
    pink = made.noise(30.0, ROOM_DBFS, "pink", seed=1)
    quiet = made.silence(30.0)
    rows: list[tuple[str, tuple[float, float], Change]] = [
        ("3 s of silence before", near, around(quiet[: 3 * RATE_HZ], behind=False)),
        ("5 s of silence behind", near, around(quiet[: 5 * RATE_HZ], before=False)),
        ("30 s of silence before and behind", near, around(quiet)),
        ("3 s of room noise before", near, around(pink[: 3 * RATE_HZ], behind=False)),
        ("30 s of room noise before and behind", near, around(pink)),
    ]
    rows += [
        (f"gain {gain_db:+g} dB", level, lambda x, g=gain_db: x * np.float32(made.db(g)))
        for gain_db in (-24.0, -12.0, -6.0, 6.0)
    ]
    rows += [
        ("offset of 2 %", level, lambda x: x + np.float32(0.02)),
        ("hum, 50 Hz at -50 dBFS", level, on_top(lambda s: made.tone(s, 50.0, -50.0))),
        ("hum with harmonics at -50 dBFS", level, on_top(lambda s: made.hum(s, 50.0, -50.0))),
        ("8 kHz", band, resampled(8_000)),
        ("the same twice", (0.2, 0.6), lambda x: np.concatenate((x, x))),
        ("MP3 at 32 kbit/s", (0.1, 0.3), coded("libmp3lame", "mp3", "32k")),
        ("Opus at 24 kbit/s", (0.1, 0.3), coded("libopus", "ogg", "24k")),
    ]
    return rows


def as_file(samples: Samples) -> Samples:
    """Round to 16 bits, held to full scale."""
    values = np.clip(np.round(np.asarray(samples, np.float64) * 32768), -32768, 32767)
    return (values / 32768).astype(np.float32)


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "corpus", type=Path, help="speechocean762 as it is handed out, or a manifest"
    )
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--score", default="total")
    parser.add_argument("--recordings", type=int, default=50)
    parser.add_argument("--front", type=int, help="put this front before it, not its own")
    parser.add_argument("--text", action="store_true", help="give the text that was read")
    options = parser.parse_args()
    path = options.corpus / "train.jsonl" if options.corpus.is_dir() else options.corpus
    dev = dev_split(read_manifest(path))[1]
    chosen = [dev[i * len(dev) // options.recordings] for i in range(options.recordings)]
    engine = asa.load(options.bundle, threads=1)
    if options.front is not None:
        engine._config = dataclasses.replace(engine.config, front=options.front)

    def score(samples: Samples, texts: dict[str, str]) -> float:
        result = engine.assess((samples, RATE_HZ), **texts)
        return result.scores[options.score].value if result.validity.scorable else np.nan

    texts = [dict(u.texts) if options.text else {} for u in chosen]
    recordings = [read_audio(u.audio) for u in chosen]
    before = np.array([score(x, t) for x, t in zip(recordings, texts, strict=True)])
    print(
        f"`{options.score}` of {len(chosen)} recordings, {engine.bundle.name}, "
        f"{engine.choice.backend}/{engine.choice.precision}, front {engine.config.front}\n"
    )
    print("| change | judged | mean | mean of sizes | worst | aim (mean, worst) |")
    print("|---|---|---|---|---|---|")
    print(f"| none | {np.isfinite(before).sum()}/{len(before)} | | | | |")
    for name, (mean, worst), change in changes():
        if "kbit/s" in name and shutil.which("ffmpeg") is None:
            print(f"| {name} | needs ffmpeg | | | | |")
            continue
        after = np.array(
            [score(as_file(change(x)), t) for x, t in zip(recordings, texts, strict=True)]
        )
        moved = (after - before)[np.isfinite(after) & np.isfinite(before)]
        judged = f"{np.isfinite(after).sum()}/{len(after)}"
        print(
            f"| {name} | {judged} | {moved.mean():+.3f} | {np.abs(moved).mean():.3f} "
            f"| {np.abs(moved).max():.2f} | {mean:g}, {worst:g} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
