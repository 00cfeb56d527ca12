"""Pipelines of words against PyTorch's: the text and multi-aspect graders, the recogniser alone.

    python benchmarks/pipelines/text.py ../shared/data/speechocean762/train.jsonl
    python benchmarks/pipelines/text.py MANIFEST --bundle build/bundles/s1-text \\
        --checkpoint models/s1-text
    python benchmarks/pipelines/text.py MANIFEST --bundle build/bundles/s2-multi-aspect \\
        --checkpoint models/s2-multi-aspect --grader multi_aspect

Without a bundle only the recogniser is timed. The reference is Hugging Face's Whisper `generate`
(and BERT), fp32, on the whole recording; for the multi-aspect grader see `aspects.py` beside this.
Every candidate lives in a process of its own and sleeps while others run; in every round each has
one turn, in a new random order, and ratios are taken within rounds. A row holds what it costs and
what it does to the words or the score.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from asa_engine.measuring.host import describe_host
from asa_engine.measuring.speech import Wanted, prepare_speech

BACKBONE = "whisper-tiny.en"
RATE_HZ = 16_000
CLIPS_S = (5.0, 30.0)
CHUNK = RATE_HZ // 10
REFERENCE = "torch/fp32"
STAGES = ("recogniser_ms", "encoder_ms", "features_ms", "backbone_ms", "head_ms")

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """What one process opens.

    Attributes:
        subject: `recogniser`, `pipeline` or `aspects`, whose reference is a pipeline of its own.
        variant: `backend/precision`.
        threads: Threads it may use.
        folder: The bundle or checkpoint of a pipeline.
    """

    subject: str
    variant: str
    threads: int
    folder: str = ""


def open_recogniser(candidate: Candidate) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Return what starts a recording, and what reads the words off a transcript."""
    from asa_engine.backbones import backbone_folder
    from asa_engine.recogniser import Recogniser

    folder = backbone_folder(BACKBONE)
    if candidate.variant == REFERENCE:
        import torch

        from asa_engine.recogniser.reference import open_reference

        torch.set_num_threads(candidate.threads)
        return open_reference(folder).start, lambda transcript: transcript.text
    precision = candidate.variant.split("/")[1]
    recogniser = Recogniser.open(folder, precision=precision, threads=candidate.threads)
    return recogniser.start, lambda transcript: transcript.text


class PipelineRun:
    """A stream of the engine with the recogniser's verbs."""

    def __init__(self, engine: Any) -> None:
        self._stream = engine.stream(RATE_HZ)

    def push(self, samples: Samples) -> None:
        """Feed samples."""
        self._stream.feed(samples)

    def finish(self) -> Any:
        """Return the assessment."""
        return self._stream.finish()


def open_pipeline(candidate: Candidate) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Return what starts a recording, and what reads score and timing off an assessment."""
    import asa_engine

    backend, precision = candidate.variant.split("/")
    engine = asa_engine.load(
        candidate.folder, backend=backend, precision=precision, threads=candidate.threads
    )

    def read(assessment: Any) -> Any:
        scores = [score.value for score in assessment.scores.values()]
        return {"scores": scores, "timing": assessment.timing.to_dict()}

    return lambda: PipelineRun(engine), read


def open_aspects(candidate: Candidate) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Return the same for the multi-aspect grader."""
    if candidate.variant != REFERENCE:
        return open_pipeline(candidate)
    from aspects import Pipeline

    return Pipeline(Path(candidate.folder), candidate.threads).start, lambda result: result


OPENERS = {"recogniser": open_recogniser, "pipeline": open_pipeline, "aspects": open_aspects}


def work(candidate: Candidate, connection: Connection) -> None:
    """Serve one candidate: (path, chunk) -> milliseconds in all, at the end, and the result."""
    start, read = OPENERS[candidate.subject](candidate)
    connection.send("ready")
    while (task := connection.recv()) is not None:
        path, chunk = task
        samples = soundfile.read(path, dtype="float32")[0]
        parts = [samples[i : i + chunk] for i in range(0, len(samples), chunk)]
        begin = time.perf_counter()
        run = start()
        for part in parts[:-1]:
            run.push(part)
        last = time.perf_counter()
        run.push(parts[-1])
        result = run.finish()
        end = time.perf_counter()
        connection.send(((end - begin) * 1e3, (end - last) * 1e3, read(result)))
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


class Worker:
    """The parent's side of a candidate's process."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        os.environ["OMP_NUM_THREADS"] = str(candidate.threads)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(candidate, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()

    def run(self, path: Path, chunk: int) -> tuple[float, float, Any]:
        """Take one turn."""
        self._connection.send((str(path), chunk))
        answer: tuple[float, float, Any] = self._connection.recv()
        return answer

    def close(self) -> float:
        """End the process; return its peak memory in MB."""
        self._connection.send(None)
        peak: float = self._connection.recv()
        self._process.join()
        return peak


def drift(subject: str, results: Sequence[Any], expected: Sequence[Any]) -> dict[str, float]:
    """Return how far results are from the reference's: words changed, or score points."""
    if subject == "recogniser":
        from asa_engine.evaluation.metrics import edit_distance

        pairs = [
            (a.lower().split(), b.lower().split()) for a, b in zip(expected, results, strict=True)
        ]
        words = sum(len(a) for a, _ in pairs)
        return {"words_changed": sum(edit_distance(a, b) for a, b in pairs) / max(words, 1)}
    both = [
        (a["scores"], b["scores"])
        for a, b in zip(expected, results, strict=True)
        if a["scores"] and b["scores"]
    ]
    apart = np.abs([np.subtract(a, b) for a, b in both])
    return {"score_rms": float(np.sqrt((apart**2).mean())), "score_max": float(apart.max())}


def measure(candidates: Sequence[Candidate], speech: Any, rounds: int) -> list[dict[str, Any]]:
    """Give every candidate its turns; return one row for each."""
    workers = [Worker(candidate) for candidate in candidates]
    heard = {w.candidate: [w.run(path, 10**9)[2] for path in speech.drift] for w in workers}
    times: dict[Candidate, dict[str, list[float]]] = {
        w.candidate: defaultdict(list) for w in workers
    }
    stages: dict[Candidate, list[dict[str, float]]] = defaultdict(list)
    rng = random.Random(0)
    for turn in range(rounds + 1):
        for worker in rng.sample(workers, len(workers)):
            for seconds, path in speech.clips.items():
                whole, _, result = worker.run(path, 10**9)
                _, tail, _ = worker.run(path, CHUNK)
                if turn:  # the first round warms up
                    times[worker.candidate][f"whole_{seconds:.0f}s"].append(whole)
                    times[worker.candidate][f"tail_{seconds:.0f}s"].append(tail)
                if isinstance(result, dict) and "timing" in result and seconds == max(speech.clips):
                    stages[worker.candidate].append(result["timing"])
    rows = []
    for worker in workers:
        candidate = worker.candidate
        base = next(
            c for c in candidates if c.variant == REFERENCE and c.subject == candidate.subject
        )
        row: dict[str, Any] = {
            "subject": candidate.subject,
            "variant": candidate.variant,
            "threads": candidate.threads,
            "peak_mb": round(worker.close()),
            **drift(candidate.subject, heard[candidate], heard[base]),
        }
        for task, samples in times[candidate].items():
            ratios = [a / b for a, b in zip(times[base][task], samples, strict=True)]
            row[f"{task}_ms"] = {"p50": median(samples), "samples": samples}
            row[f"{task}_ratio"] = median(ratios)
        row["stages_ms"] = {
            name: median(timing[name] for timing in stages[candidate])
            for name in STAGES
            if stages[candidate] and stages[candidate][0].get(name) is not None
        }
        rows.append(row)
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    tasks = [f"{kind}_{seconds:.0f}s" for seconds in CLIPS_S for kind in ("whole", "tail")]
    print("| what | threads | " + " | ".join(f"{t} ms (ratio)" for t in tasks), end="")
    print(" | peak MB | drift |\n|---" * 1 + "|---" * (len(tasks) + 3) + "|")
    for row in rows:
        cells = [f"{row[f'{t}_ms']['p50']:.0f} ({row[f'{t}_ratio']:.1f})" for t in tasks]
        moved = ", ".join(f"{k} {row[k]:.3g}" for k in row if k.startswith(("words_", "score_")))
        print(f"| {row['subject']} {row['variant']} | {row['threads']} | ", end="")
        print(" | ".join(cells) + f" | {row['peak_mb']} | {moved} |")
        if row["stages_ms"]:
            print(
                "  stages at 30 s: "
                + ", ".join(f"{k} {v:.1f}" for k, v in row["stages_ms"].items())
            )


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--bundle", type=Path, help="exported text grader")
    parser.add_argument("--checkpoint", type=Path, help="the checkpoint it was exported from")
    parser.add_argument("--grader", choices=["text", "multi_aspect"], default="text")
    parser.add_argument("--variants", nargs="*", default=["onnxruntime/int8"])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--drift-recordings", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, help="JSON with every sample")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        speech = prepare_speech(
            args.manifest,
            Path(folder),
            Wanted(
                clip_seconds=CLIPS_S,
                batch_size=1,
                batch_clip_s=5.0,
                drift_recordings=args.drift_recordings,
            ),
        )
        for threads in args.threads:
            if args.bundle is None:
                candidates = [
                    Candidate("recogniser", variant, threads)
                    for variant in (REFERENCE, "native/fp32", "native/int8")
                ]
            else:
                subject = "pipeline" if args.grader == "text" else "aspects"
                candidates = [Candidate(subject, REFERENCE, threads, str(args.checkpoint))]
                candidates += [
                    Candidate(subject, variant, threads, str(args.bundle))
                    for variant in args.variants
                ]
            rows += measure(candidates, speech, args.rounds)
    show(rows)
    if args.output is not None:
        host = describe_host().to_dict()
        args.output.write_text(json.dumps({"host": host, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
