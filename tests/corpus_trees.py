"""Small trees in the shape of published corpora; every recording is a sentence of the demo's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

_DEMO = Path(__file__).parents[1] / "examples" / "audio" / "demo.flac"
_SENTENCES_S = ((0.05, 3.8), (8.8, 11.2))
"""Where "Last summer I went to the mountains with my family." and "The water was cold." stand."""
_WORDS = (("THE", "DH AH0"), ("WATER", "W AO1 T ER0"), ("WAS", "W AA1 Z"), ("COLD", "K OW1 L D"))
SPEECHOCEAN_SCORES = ("accuracy", "fluency", "prosodic", "total")
BANDS = ("A2_0", "B1_1", "B1_2", "B2_0", "XX_1")
RATE = 16_000


def _sentences() -> Iterator[NDArray[np.float32]]:
    """Yield a sentence after the other, each over noise of its own."""
    demo, _ = soundfile.read(_DEMO, dtype="float32")
    rng = np.random.default_rng(11)
    for start_s, end_s in iter(lambda: _SENTENCES_S[int(rng.integers(2))], None):
        said = demo[round(start_s * RATE) : round(end_s * RATE)]
        level = 10 ** (rng.uniform(-70, -45) / 20)
        yield (0.8 * said + rng.normal(0, level, len(said))).astype(np.float32)


def _record(path: Path, samples: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE)


def speechocean762(folder: Path) -> Path:
    """Write 12 train speakers, of whom two numbers are divisible by five, and two test speakers."""
    sentences = _sentences()
    scores, details = {}, {}
    for split, numbers in (("train", range(1, 13)), ("test", (21, 22))):
        tables: dict[str, list[str]] = {name: [] for name in ("wav.scp", "utt2spk", "spk2gender")}
        for number in numbers:
            key, path = f"{number:04}00001", f"WAVE/SPEAKER{number:04}/{number:04}00001.WAV"
            _record(folder / path, next(sentences))
            said = {name: float(3 + (number + i) % 7) for i, name in enumerate(SPEECHOCEAN_SCORES)}
            words = [
                {
                    "text": text,
                    **dict.fromkeys(("accuracy", "stress", "total"), said["accuracy"]),
                    "phones": phones.split(),
                    "phones-accuracy": [round(said["accuracy"] / 5, 1)] * len(phones.split()),
                }
                for text, phones in _WORDS
            ]
            scores[key] = {"text": "THE WATER WAS COLD", "completeness": 10, "words": words, **said}
            details[key] = {name: [s - 1, s, s, s, s + 1] for name, s in said.items()}
            tables["wav.scp"].append(f"{key}\t{path}")
            tables["utt2spk"].append(f"{key}\t{number:04}")
            tables["spk2gender"].append(f"{number:04}\tf")
        for name, lines in tables.items():
            (folder / split).mkdir(exist_ok=True)
            (folder / split / name).write_text("\n".join(lines) + "\n")
    (folder / "resource").mkdir()
    for name, entries in (("scores", scores), ("scores-detail", details)):
        (folder / "resource" / f"{name}.json").write_text(json.dumps(entries))
    return folder


def speak_improve(folder: Path) -> Path:
    """Write six train and two dev submissions: two answers in P1 and P5, one in P3 and P4."""
    sentences = _sentences()
    marks: dict[str, list[str]] = {name: [] for name in ("P1", "P3", "P4", "P5")}
    for number in range(8):
        submission, split = f"SI114J-{number:05}", "dev" if number > 5 else "train"
        for part, count in (("P1", 2), ("P3", 1), ("P4", 1), ("P5", 2)):
            for answer in range(1, count + 1):
                name = f"{submission}-{part}{answer:04}.flac"
                _record(folder / "data" / "flac" / split / submission[-2:] / name, next(sentences))
            marks[part].append(f"{submission}\t{2 + number % 4 + int(part[1]) / 10}")
    (folder / "marks").mkdir()
    for part, lines in marks.items():
        (folder / "marks" / f"all.{part}.tsv").write_text("\n".join(["fileID\tscore", *lines, ""]))
    return folder


def icnale(folder: Path) -> Path:
    """Write fifteen monologues of as many speakers, three a band, each with its transcript."""
    sentences = _sentences()
    for number in range(15):
        band, country = BANDS[number % 5], "ENS" if number % 5 == 4 else "JPN"
        path = folder / country / f"SM_{country}_PTJ1_{number:03}_{band}.wav"
        _record(path, next(sentences))
        path.with_suffix(".txt").write_text("the cat sat on the mat " * (1 + number % 5))
    return folder


def teemi(folder: Path) -> Path:
    """Write a table of eight training answers, of two dev answers and of two for testing."""
    sentences = _sentences()
    header = "text_id,spk_id,prompt,trans_human,content,delivery,language_use,holistic"
    levels = ("Pre-A1", "A1", "A1+", "A2", "A2+", "B1", "B1+", "B2")
    for split, numbers in (("train", range(8)), ("dev", range(8, 10)), ("test", range(10, 12))):
        rows = []
        for number in numbers:
            _record(folder / "wav" / f"u{number}.wav", next(sentences))
            grades = ",".join(levels[(3 * number + i) % 8] for i in range(4))
            rows.append(f"u{number},s{number},the dog ran home,we ran home early,{grades}")
        (folder / f"{split}.csv").write_text("\n".join([header, *rows, ""]))
    return folder
