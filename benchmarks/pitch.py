"""The pitch kernel against librosa's pYIN on real speech; other libraries beside it.

    python benchmarks/pitch.py track SPEECHOCEAN762 -o tracks.npz
    python benchmarks/pitch.py compare tracks.npz [more.npz...] -o result.json

`track` uses what is installed of librosa, parselmouth, pyworld and asa_engine; the libraries need
not share an environment, `compare` joins the files. Times are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE, HOP = 16_000, 160
LOW_HZ, HIGH_HZ = 65.406, 2093.005
REFERENCE = "librosa pYIN"
GROSS = 0.2
EVERY = 25
WARM_UPS = 1

Track = Callable[[NDArray[np.float32]], NDArray[np.float64]]


def trackers() -> dict[str, Track]:
    """Return what is installed: name -> samples to F0 in Hz, 0 where unvoiced, 100 a second."""
    tracks: dict[str, Track] = {}
    if find_spec("librosa"):
        import librosa

        tracks[REFERENCE] = lambda x: np.nan_to_num(
            librosa.pyin(x, fmin=LOW_HZ, fmax=HIGH_HZ, sr=RATE, hop_length=HOP)[0]
        )
    if find_spec("parselmouth"):
        import parselmouth

        def praat(x: NDArray[np.float32]) -> NDArray[np.float64]:
            sound = parselmouth.Sound(x.astype(np.float64), RATE)
            pitch = sound.to_pitch_ac(HOP / RATE, LOW_HZ, pitch_ceiling=600.0)
            at = np.round(np.array(pitch.xs()) * RATE / HOP).astype(int)
            f0 = np.zeros(x.size // HOP + 1)
            f0[at[at < f0.size]] = pitch.selected_array["frequency"][at < f0.size]
            return f0

        tracks["Praat autocorrelation"] = praat
    if find_spec("pyworld"):
        import pyworld

        def harvest(x: NDArray[np.float32]) -> NDArray[np.float64]:
            f0, _ = pyworld.harvest(x.astype(np.float64), RATE, LOW_HZ, 1000.0, 10.0)
            return np.asarray(f0)

        tracks["WORLD Harvest"] = harvest
    if find_spec("asa_engine"):
        from asa_engine.kernels.pitch import track_pitch

        tracks["asa_engine"] = lambda x: track_pitch(x).f0_hz.astype(np.float64)
    return tracks


def track(corpus: Path, output: Path) -> None:
    """Track every 25th recording of the manifest with all that is installed."""
    lines = (corpus / "train.jsonl").read_text().splitlines()[::EVERY]
    recordings = [
        soundfile.read(corpus / json.loads(line)["audio"], dtype="float32")[0] for line in lines
    ]
    seconds = sum(map(len, recordings)) / RATE
    arrays: dict[str, NDArray[np.float64]] = {}
    for name, tracker in trackers().items():
        for samples in recordings[:WARM_UPS]:
            tracker(samples)
        start = time.process_time()
        tracks = [tracker(samples) for samples in recordings]
        took = time.process_time() - start
        frames = [samples.size // HOP + 1 for samples in recordings]
        arrays[name] = np.concatenate(
            [np.pad(t[:n], (0, max(0, n - len(t)))) for t, n in zip(tracks, frames, strict=True)]
        )
        arrays[f"{name}/ms"] = np.array(1e3 * took * 30 / seconds)
    np.savez(output, **arrays)


def compare(files: list[Path]) -> dict[str, object]:
    """Return each tracker's agreement with the reference, and its time for 30 s of speech."""
    arrays = {name: value for file in files for name, value in np.load(file).items()}
    truth = arrays[REFERENCE]
    rows: dict[str, dict[str, float]] = {}
    for name, f0 in arrays.items():
        if name.endswith("/ms"):
            continue
        both = (f0 > 0) & (truth > 0)
        ratio = f0[both] / truth[both]
        fine = np.abs(ratio - 1) <= GROSS
        rows[name] = {
            "voiced_share": round(float(np.mean(f0 > 0)), 4),
            "voicing_agreement": round(float(np.mean((f0 > 0) == (truth > 0))), 4),
            "gross_errors": round(float(np.mean(~fine)), 4),
            "median_cents": round(float(np.median(np.abs(1200 * np.log2(ratio[fine])))), 2),
            "ms_for_30_s": round(float(arrays[f"{name}/ms"]), 1),
        }
    return {"frames": int(truth.size), "trackers": rows}


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    one = commands.add_parser("track")
    one.add_argument("corpus", type=Path)
    two = commands.add_parser("compare")
    two.add_argument("files", type=Path, nargs="+")
    for command in (one, two):
        command.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "track":
        track(args.corpus, args.output)
        return
    result = compare(args.files)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
