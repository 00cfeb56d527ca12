"""How far scores of a compressed copy lie from those of the recording.

    python benchmarks/codecs.py ../shared/data/speechocean762 --recordings 24

Needs ffmpeg and the extra [media]. Prints the table of docs/audio.md.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import tempfile
from pathlib import Path

from asa_engine.engine import load

COPIES = {
    "Ogg/Opus, 24 kbit/s": (".opus", "libopus", "24k"),
    "WebM/Opus, 16 kbit/s": (".webm", "libopus", "16k"),
    "M4A/AAC, 64 kbit/s": (".m4a", "aac", "64k"),
    "M4A/AAC, 32 kbit/s": (".m4a", "aac", "32k"),
    "MP3, 64 kbit/s": (".mp3", "libmp3lame", "64k"),
}


def main() -> None:
    """Score recordings and their copies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--recordings", type=int, default=24)
    args = parser.parse_args()
    lines = (args.corpus / "train.jsonl").read_text(encoding="utf-8").splitlines()
    random.seed(0)
    engine = load("acoustic", threads=1)
    apart: dict[str, list[float]] = {name: [] for name in COPIES}
    with tempfile.TemporaryDirectory() as folder:
        for line in random.sample(lines, args.recordings):
            recording = args.corpus / json.loads(line)["audio"]
            scores = engine.assess(recording).scores
            for name, (suffix, codec, rate) in COPIES.items():
                copy = Path(folder) / f"copy{suffix}"
                command = ["ffmpeg", "-v", "error", "-y", "-i", recording, "-c:a", codec]
                subprocess.run([*command, "-b:a", rate, copy], check=True)
                found = engine.assess(copy).scores
                apart[name] += [found[key].value - scores[key].value for key in scores]
    print("| copy | mean distance | mean difference | largest |\n|---|---|---|---|")
    for name, values in apart.items():
        distances = [abs(value) for value in values]
        print(
            f"| {name} | {statistics.mean(distances):.3f} | {statistics.mean(values):+.3f} "
            f"| {max(distances):.2f} |"
        )


if __name__ == "__main__":
    main()
