"""A speech LLM's whole way to a score: PyTorch against every runtime of its bundles.

    python benchmarks/speech_llm.py BUNDLE [--units BUNDLE] [--data MANIFEST] [--threads 1]
        [--rounds 3] [--peers PYTHON] [--json FILE]

BUNDLE is an exported speech LLM, --units one whose audio is units, which CTranslate2 runs. Every
subject runs in a process of its own. A row is printed for each:

- score: from the last sample to the score, after 10, 30 and 120 s of speech, ms, best of
  `--rounds`. The engine hears the speech in pieces of 100 ms before; PyTorch does all of it then;
- CPU: of all work on 30 s of speech, s, the least of the rounds;
- tokens/s: audio tokens through the language model, one full chunk of 28 s, 140 of them;
- memory: the process's peak, MiB, libraries and model included;
- drift: root mean square change of the score against PyTorch fp32, on `--recordings` recordings.

--peers names a Python with openvino, torch and transformers: OpenVINO then runs the language model
of the bundle at bf16. It hears nothing: its drift is that of the language model alone on the
reference's audio tokens, and its memory includes PyTorch, which converts the model. PyTorch at bf16
is the language model at bf16 behind an encoder at fp32.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Figures = dict[str, float]
RATE = 16_000
SECONDS = (10, 30, 120)
PIECE = RATE // 10
CHUNK_TOKENS = 140  # of 28 s
ENGINE = ("native/fp32", "native/int8", "onnxruntime/fp32", "onnxruntime/int8", "onnxruntime/int4")
UNITS = ("native/fp32", "native/int8", "onnxruntime/fp32", "onnxruntime/int8", "ctranslate2/fp32")


def main() -> None:
    """Parse the command line; run every subject, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--units", type=Path)
    parser.add_argument("--data", type=Path, help="manifest; synthetic speech without one")
    parser.add_argument("--recordings", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--subject", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.subject is not None:
        print(json.dumps(SUBJECTS.get(options.subject, _engine)(options)))
        return
    peers = ("torch/fp32", "torch/bf16")
    plan = [(options.bundle, name) for name in (*peers, *_held(options.bundle, ENGINE))]
    if options.units is not None:
        held = _held(options.units, UNITS)
        plan += [(options.units, name) for name in ("torch/fp32", *held)]
    if options.peers is not None:
        plan.append((options.bundle, "openvino/bf16"))
    print(f"{options.threads} thread(s), best of {options.rounds}")
    after = "".join(f"{f'{seconds} s, ms':>11}" for seconds in SECONDS)
    print(f"{'':24}{after}{'CPU s':>8}{'tokens/s':>10}{'MiB':>7}{'drift':>9}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        options.work = Path(work)
        for bundle, subject in plan:
            if subject.startswith("openvino"):
                _in_a_process("merge", bundle, options)
            figures = _in_a_process(subject, bundle, options)
            name = subject if bundle == options.bundle else f"{subject}, units"
            print(_line(name, figures), flush=True)
            rows.append({"subject": name, **figures})
            if options.json is not None:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


def _held(path: Path, variants: tuple[str, ...]) -> list[str]:
    """Return those of some variants that a bundle holds."""
    from asa_engine.bundle import Bundle

    held = {f"{backend}/{precision}" for backend, precision in Bundle.open(path).variants()}
    return [name for name in variants if name in held]


def _line(name: str, figures: Figures) -> str:
    times = [
        f"{figures[f'score_{seconds}_ms']:11.1f}"
        if f"score_{seconds}_ms" in figures
        else f"{'-':>11}"
        for seconds in SECONDS
    ]
    cpu = f"{figures['cpu_30_s']:8.2f}" if "cpu_30_s" in figures else f"{'-':>8}"
    rest = f"{figures['tokens_a_second']:10.0f}{figures['memory_mib']:7.0f}{figures['drift']:9.4f}"
    return f"{name:24}{''.join(times)}{cpu}{rest}"


def _in_a_process(subject: str, bundle: Path, options: argparse.Namespace) -> Figures:
    python = options.peers if subject.startswith("openvino") else sys.executable
    command = [str(python), __file__, str(bundle), "--subject", subject, "--work"]
    command += [str(options.work), "--threads", str(options.threads)]
    command += ["--rounds", str(options.rounds), "--recordings", str(options.recordings)]
    if options.data is not None:
        command += ["--data", str(options.data)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _speech(options: argparse.Namespace) -> list[Array]:
    """Return dev recordings of the manifest, or synthetic ones."""
    from asa_export.speech import manifest_recordings, synthetic_recordings

    made = synthetic_recordings()
    if options.data is not None:
        made = list(manifest_recordings(options.data, dev=True).judging)
    return [item.samples() for item in made[: options.recordings]]


def _measure(
    options: argparse.Namespace,
    score: Callable[[Array], tuple[float, float]],
    prefill: Callable[[], None],
) -> Figures:
    """Measure a subject.

    Args:
        options: Of the command line.
        score: Scores samples; returns the score and the seconds after the last sample.
        prefill: Runs one full chunk through the language model.
    """
    speech = _speech(options)
    figures: Figures = {}
    long = np.concatenate(speech * (1 + SECONDS[-1] * RATE // sum(map(len, speech))))
    for seconds in SECONDS:
        times, used = [], []
        for _ in range(options.rounds):
            start = time.process_time()
            times.append(score(long[: seconds * RATE])[1])
            used.append(time.process_time() - start)
        figures[f"score_{seconds}_ms"] = min(times) * 1e3
        figures[f"cpu_{seconds}_s"] = min(used)
    figures["tokens_a_second"] = CHUNK_TOKENS / _best(prefill, options.rounds)
    said = np.array([score(samples)[0] for samples in speech])
    kept = options.work / f"{options.bundle.name}.npy"
    if options.subject == "torch/fp32":
        np.save(kept, said)
    figures["drift"] = float(np.sqrt(np.mean(np.square(said - np.load(kept)))))
    return {**figures, "memory_mib": _memory_mib()}


def _best(work: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):  # the first one warms up
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _rows(width: int) -> Array:
    """Return rows of the size of audio tokens, as many as a full chunk has."""
    rows = np.random.default_rng(0).normal(0, 0.1, (CHUNK_TOKENS, width))
    return rows.astype(np.float32)


def _torch(options: argparse.Namespace) -> Figures:
    import torch

    from asa_engine.graders.speech_llm.model import SpeechLLM

    torch.set_num_threads(options.threads)
    grader = SpeechLLM.load(options.bundle)
    if options.subject.endswith("bf16"):
        grader.language_model.to(torch.bfloat16)

    def score(samples: Array) -> tuple[float, float]:
        start = time.perf_counter()
        said = float(grader.assess_samples(samples).scores[0])
        return said, time.perf_counter() - start

    with torch.inference_mode():
        prefix = grader.prefix(0, grader.layers)
    rows = torch.from_numpy(_rows(grader.config.language_model.width))

    @torch.inference_mode()
    def prefill() -> None:
        grader.run([rows.to(grader.language_model.dtype)], 0, grader.layers, prefix)

    return _measure(options, score, prefill)


def _engine(options: argparse.Namespace) -> Figures:
    import asa_engine as asa
    from asa_engine.bundle import Bundle
    from asa_engine.language_model.opening import open_model

    backend, precision = options.subject.split("/")
    engine = asa.load(options.bundle, backend=backend, precision=precision, threads=options.threads)

    def score(samples: Array) -> tuple[float, float]:
        with engine.stream() as stream:
            for start in range(0, len(samples), PIECE):
                stream.feed(samples[start : start + PIECE])
            begin = time.perf_counter()
            result = stream.finish()
            took = time.perf_counter() - begin
        return result.scores["total"].value, took

    file = Bundle.open(options.bundle).file("language_model", backend, precision)
    if backend == "ctranslate2":
        import ctranslate2

        generator = ctranslate2.Generator(
            str(file.parent), compute_type="default", intra_threads=options.threads
        )
        ids = list(range(CHUNK_TOKENS))

        def prefill() -> None:
            np.array(generator.forward_batch([ids]))

    else:
        decoder = open_model(file, threads=options.threads)
        rows = _rows(decoder.width)

        def prefill() -> None:
            decoder.start(CHUNK_TOKENS).extend(rows)

    return _measure(options, score, prefill)


def _merge(options: argparse.Namespace) -> Figures:
    """Leave the language model as a plain folder, and a sequence with its score."""
    import torch

    from asa_engine.graders.speech_llm.model import SpeechLLM
    from asa_engine.nn.lora import merge_lora

    grader = SpeechLLM.load(options.bundle)
    merge_lora(grader.language_model)
    grader.language_model.decoder.save_pretrained(options.work / "merged")
    prompt = grader.config.prompt
    sequences, scores = [], []
    with torch.inference_mode():
        before = grader.language_model.embed(torch.tensor(prompt.prefix_ids))
        for samples in _speech(options):
            tokens = torch.cat([grader.window(mel)[0] for mel in grader.mels(samples)])
            for item in grader.sequences(grader.chunks(tokens)):
                sequence = torch.cat((before, item))
                hidden = grader.language_model.run(sequence[None], 0, grader.layers)[0]
                sequences.append(sequence.numpy())
                scores.append(float(grader.scores(grader.answer([hidden]))[0, 0]))
        labels = grader.language_model.output.weight[list(prompt.label_ids)].numpy()
    names = {f"sequence_{i}": item for i, item in enumerate(sequences)}
    points = np.array(prompt.label_scores)
    np.savez(options.work / "chunks.npz", labels=labels, points=points, scores=scores, **names)
    return {}


def _openvino(options: argparse.Namespace) -> Figures:
    """Run by the peers' Python: nothing of this project is there."""
    import openvino as ov
    import torch
    from transformers import AutoModel

    inner = AutoModel.from_pretrained(options.work / "merged", attn_implementation="sdpa").eval()

    class Hidden(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
            # With no mask at all it looks for packed sequences, which OpenVINO cannot convert.
            mask = torch.ones(inputs_embeds.shape[:2], dtype=torch.long)
            hidden: torch.Tensor = self.inner(
                inputs_embeds=inputs_embeds, attention_mask=mask, use_cache=False
            ).last_hidden_state
            return hidden

    width = inner.config.hidden_size
    with torch.no_grad():
        model = ov.convert_model(
            Hidden(inner),
            example_input=torch.zeros(1, 8, width),
            input=[ov.PartialShape([1, -1, width])],
        )
    compiled = ov.Core().compile_model(
        model,
        "CPU",
        {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": options.threads},
    )
    rows = _rows(width)[None]
    rate = CHUNK_TOKENS / _best(lambda: compiled([rows]), options.rounds)
    known, moved = np.load(options.work / "chunks.npz"), []
    for index, expected in enumerate(known["scores"]):
        hidden = compiled([known[f"sequence_{index}"][None]])[0][0, -1]
        powers = np.exp(known["labels"] @ hidden)
        moved.append(powers @ known["points"] / powers.sum() - expected)
    return {
        "tokens_a_second": rate,
        "drift": float(np.sqrt(np.mean(np.square(moved)))),
        "memory_mib": _memory_mib(),
    }


SUBJECTS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "torch/fp32": _torch,
    "torch/bf16": _torch,
    "merge": _merge,
    "openvino/bf16": _openvino,
}


if __name__ == "__main__":
    main()
