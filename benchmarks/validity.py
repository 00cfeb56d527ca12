"""What the validity monitor says of real learners, of the same made worse, and of no speech.

    python benchmarks/validity.py ../shared/data/speechocean762

Prints the tables of docs/audio.md. Deterministic; takes about four minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import audio_samples as made
from audio_samples import RATE_HZ, Samples

from asa_engine.audio.intake import Intake
from asa_engine.audio.validity import REASONS, Validity

DEGRADED = 100  # recordings drawn for the second table
NON_SPEECH_S = 60.0
AGES = (("6 to 8 years", 0, 8), ("9 to 11 years", 9, 11), ("12 and older", 12, 99))


def judge(samples: Samples) -> tuple[Validity, float]:
    """Return the verdict and the CPU seconds that conversion, detector and monitor took."""
    intake = Intake(RATE_HZ, front=0)
    start = time.thread_time()
    for chunk in made.cut(samples, [RATE_HZ // 2]):
        intake.push(chunk)
    intake.close()
    return intake.validity(), time.thread_time() - start


def row(name: str, verdicts: Iterable[Validity]) -> None:
    """Print one line of a table: share scorable, reasons, median SNR and clipped share."""
    verdicts = list(verdicts)
    scorable = sum(verdict.scorable for verdict in verdicts)
    counts = Counter(reason for verdict in verdicts for reason in verdict.reasons)
    reasons = ", ".join(f"{name} {counts[name]}" for name in REASONS if counts[name]) or "-"
    snr_db = [verdict.snr_db for verdict in verdicts if verdict.snr_db is not None]
    middle = f"{np.median(snr_db):.1f}" if snr_db else "-"
    clipped_share = [verdict.clipped_share for verdict in verdicts if verdict.clipped_share]
    share = f"{np.median(clipped_share):.3f}" if clipped_share else "0"
    print(f"| {name} | {scorable}/{len(verdicts)} | {reasons} | {middle} | {share} |", flush=True)


def whispered(samples: Samples, seed: int) -> Samples:
    """Replace the voice by noise under the same, smoothed, short-time spectra; -35 dBFS."""
    size, hop = 400, 100
    window = np.hanning(size)
    carrier = np.random.default_rng(seed).standard_normal(len(samples))
    out = np.zeros(len(samples) + size)
    for start in range(0, len(samples) - size, hop):
        envelope = np.abs(np.fft.rfft(samples[start : start + size] * window))
        envelope = np.convolve(envelope, np.ones(9) / 9, "same")
        excitation = np.fft.rfft(carrier[start : start + size] * window)
        excitation /= np.maximum(np.abs(excitation), 1e-9)
        out[start : start + size] += window * np.fft.irfft(envelope * excitation)
    return made.scaled(out[: len(samples)], -35.0)


def raised(semitones: float) -> Callable[[Samples, int], Samples]:
    """Return a degradation: a higher, quicker voice, as a tape that runs too fast gives it."""
    rate_hz = RATE_HZ * 2 ** (semitones / 12)
    return lambda samples, _: soxr.resample(samples, rate_hz, RATE_HZ).astype(np.float32)


def loudest(duration_s: float) -> Callable[[Samples, int], Samples]:
    """Return a degradation: its loudest part of a length, between a second of room noise."""

    def degrade(samples: Samples, seed: int) -> Samples:
        n = round(duration_s * RATE_HZ)
        energy = np.convolve(samples.astype(np.float64) ** 2, np.ones(n), "valid")
        start = int(energy.argmax())
        room = made.noise(1.0, -65.0, "pink", seed)
        return np.concatenate((room, samples[start : start + n], room))

    return degrade


def clipped(samples: Samples, gain_db: float) -> Samples:
    """Put the loudest sample this far above full scale, then clip."""
    gain = np.float32(made.db(gain_db) / np.abs(samples).max())
    return np.clip(samples * gain, -1, 1)


def in_noise(colour: str, snr_db: float) -> Callable[[Samples, int], Samples]:
    """Return a degradation: coloured noise added at an SNR."""

    def degrade(samples: Samples, seed: int) -> Samples:
        added = made.noise(len(samples) / RATE_HZ, -20.0, colour, seed)
        return made.mixed(samples, added, snr_db).astype(np.float32)

    return degrade


def amplified(gain_db: float) -> Callable[[Samples, int], Samples]:
    """Return a degradation: another gain."""
    return lambda samples, _: (samples * made.db(gain_db)).astype(np.float32)


def degradations() -> dict[str, Callable[[Samples, int], Samples]]:
    """Return what is done to real speech, by name."""
    pause = made.silence(30.0)
    room = made.noise(30.0, -65.0)
    by_name: dict[str, Callable[[Samples, int], Samples]] = {
        f"gain {gain_db} dB": amplified(gain_db) for gain_db in (0, -10, -20, -30)
    }
    for colour in ("white", "pink"):
        for snr_db in (20, 10, 5, 0, -5):
            by_name[f"{colour} noise, SNR {snr_db} dB"] = in_noise(colour, snr_db)
    for gain_db in (6, 12, 18, 24, 30):
        by_name[f"clipped, peak +{gain_db} dB"] = lambda x, _, gain_db=gain_db: clipped(x, gain_db)
    by_name["clipped, peak +12 dB, then -10 dB"] = lambda x, _: clipped(x, 12) * np.float32(0.316)
    by_name["whispered (noise-excited)"] = whispered
    by_name["between a minute of digital silence"] = lambda x, _: np.concatenate([pause, x, pause])
    by_name["between a minute at -65 dBFS"] = lambda x, _: np.concatenate([room, x, room])
    for semitones in (3, 6, 9):
        by_name[f"{semitones} semitones higher"] = raised(semitones)
    for duration_s in (0.5, 0.25):
        by_name[f"its loudest {duration_s} s in room noise"] = loudest(duration_s)
    by_name["0.1 s of it"] = lambda x, _: x[RATE_HZ : RATE_HZ + 1600]
    by_name["its first second after 0.5 s"] = lambda x, _: x[RATE_HZ // 2 : 3 * RATE_HZ // 2]
    return by_name


def non_speech() -> dict[str, list[Samples]]:
    """Return sounds that are no speech, by kind."""
    n = NON_SPEECH_S
    levels = (-70, -50, -30, -10)
    return {
        "white noise, -70 to -10 dBFS": [made.noise(n, level) for level in levels],
        "pink noise, -70 to -10 dBFS": [made.noise(n, level, "pink") for level in levels],
        "brown noise, -70 to -10 dBFS": [made.noise(n, level, "brown") for level in levels],
        "hum at 50, 60, 100 Hz": [made.hum(n, hz, -20) for hz in (50, 60, 100)],
        "tones, 100 to 3000 Hz": [made.tone(n, hz) for hz in (100, 200, 440, 1000, 3000)],
        "sweeps of 0.5, 2, 10 s": [np.tile(made.chirp(s), int(n / s)) for s in (0.5, 2, 10)],
        "clicks, 4 to 100 a second": [made.clicks(n, rate) for rate in (4, 20, 100)],
        "telephone keys": [made.dtmf(n)],
        "chords": [made.chords(n)],
        "plucked melodies": [
            made.melody(n, note_s, decay, seed)
            for seed, (note_s, decay) in enumerate([(0.25, 4), (0.15, 1), (0.4, 8), (0.2, 2)])
        ],
        "beeps at 440, 1000 Hz": [made.beeps(n, hz) for hz in (440, 1000)],
        "beeps at 150 to 300 Hz": [made.beeps(n, hz) for hz in (150, 200, 250, 300)],
    }


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder that holds train.jsonl")
    folder = parser.parse_args().corpus
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]

    def load(line: dict[str, str]) -> Samples:
        return soundfile.read(folder / line["audio"], dtype="float32")[0]

    header = (
        "| | scorable | reasons | median SNR (dB) | median clipped share |\n|---|---|---|---|---|"
    )
    print(header)
    judged = [(line, *judge(load(line))) for line in rows]
    row("all", [verdict for _, verdict, _ in judged])
    for name, youngest, oldest in AGES:
        row(name, [v for line, v, _ in judged if youngest <= int(line["age"]) <= oldest])
    for line, verdict, _ in judged:
        if not verdict.scorable:
            print(f"  {line['id']}: {', '.join(verdict.reasons)}: {line['text']!r}")
    spent_ms = [1e3 * spent for _, _, spent in judged]
    print(f"CPU time per recording (mean {np.mean([r['duration'] for r in rows]):.1f} s): ", end="")
    print(f"median {np.median(spent_ms):.1f} ms, 95th percentile {np.percentile(spent_ms, 95):.1f}")
    answer = np.concatenate([load(line) for line in rows[:12]])[: 30 * RATE_HZ]
    answer_ms = 1e3 * np.median([judge(answer)[1] for _ in range(15)])
    print(f"CPU time for 30 s of speech: median {answer_ms:.1f} ms")
    print(f"lowest SNR: {min(v.snr_db for _, v, _ in judged if v.snr_db is not None):.1f} dB")

    print(header)
    drawn = np.random.default_rng(3).choice(len(rows), DEGRADED, replace=False)
    clean = [load(rows[i]) for i in drawn]
    for name, degrade in degradations().items():
        row(name, (judge(degrade(samples, seed))[0] for seed, samples in enumerate(clean)))

    print(header)
    for name, sounds in non_speech().items():
        row(name, (judge(sound)[0] for sound in sounds))


if __name__ == "__main__":
    main()
