"""Prefill and steps of a language model: PyTorch against the engine's decoder.

    python benchmarks/language_model.py FOLDER [--rows 512] [--steps 16] [--rounds 5] [--threads 1]

FOLDER holds Hugging Face's `config.json` and `model.safetensors` of a Llama or Qwen2. Every subject
runs in a process of its own, on the same random embeddings; a row is printed for each:

- prefill: embeddings in, hidden states out, best wall time and the CPU time of the same pass, ms;
- step: one more position after them, best of `--steps`, ms;
- memory: the process's peak, MiB, the model's load included;
- error: hidden states against PyTorch fp32, relative RMS, without the first position.

The best of several rounds is reported, since other work on a machine only ever adds time.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
SUBJECTS = ("torch/fp32", "torch/bf16", "engine/fp32", "engine/int8", "engine/int4")
_SEED = 0


def main() -> None:
    """Parse the command line; run every subject, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--subject", choices=SUBJECTS, action="append")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        print(json.dumps(measure(options)))
        return
    head = (
        f"{'':12}{'prefill ms':>12}{'CPU ms':>9}{'rows/s':>8}{'step ms':>9}{'MiB':>7}{'error':>10}"
    )
    print(f"{options.rows} rows, {options.threads} thread(s), best of {options.rounds}\n{head}")
    with tempfile.TemporaryDirectory() as work:
        # The reference comes first: it leaves what the others are compared with.
        chosen = [s for s in SUBJECTS if s in (options.subject or SUBJECTS) or s == "torch/fp32"]
        for subject in chosen:
            figures = _in_a_process(subject, options, Path(work))
            rate = options.rows / figures["prefill_ms"] * 1e3
            print(
                f"{subject:12}{figures['prefill_ms']:12.1f}{figures['cpu_ms']:9.1f}{rate:8.0f}"
                f"{figures['step_ms']:9.2f}{figures['memory_mib']:7.0f}{figures['error']:10.2e}",
                flush=True,
            )


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measure the one subject that the options name, in this process."""
    (subject,) = options.subject
    library, precision = subject.split("/")
    config = json.loads((options.folder / "config.json").read_text())
    rng = np.random.default_rng(_SEED)
    rows = rng.normal(0, 0.1, (options.rows, config["hidden_size"])).astype(np.float32)
    start = _torch if library == "torch" else _engine
    begin = start(options.folder, precision, options, Path(options.work))
    best, cpu, step = np.inf, np.inf, np.inf
    for _ in range(options.rounds):
        run = begin()
        wall, used = time.perf_counter(), time.process_time()
        hidden = run(rows)
        wall, used = time.perf_counter() - wall, time.process_time() - used
        best, cpu = min(best, wall), min(cpu, used)
        for row in rows[: options.steps]:
            wall = time.perf_counter()
            run(row[None])
            step = min(step, time.perf_counter() - wall)
    truth = Path(options.work) / "truth.npy"
    if subject == "torch/fp32":
        np.save(truth, hidden)
    expected = np.load(truth)[1:]
    error = np.sqrt(np.square(hidden[1:] - expected).mean() / np.square(expected).mean())
    return {
        "prefill_ms": best * 1e3,
        "cpu_ms": cpu * 1e3,
        "step_ms": step * 1e3,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "error": float(error),
    }


def _in_a_process(subject: str, options: argparse.Namespace, work: Path) -> dict[str, float]:
    command = [sys.executable, __file__, str(options.folder), "--subject", subject]
    if subject.startswith("engine/"):
        # Building the graph takes more memory than running it.
        subprocess.run([*command, "--work", str(work)], check=True)
    for name in ("rows", "steps", "rounds", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--work", str(work)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _torch(
    folder: Path, precision: str, options: argparse.Namespace, work: Path
) -> Callable[[], Callable[[Array], Array]]:
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    from asa_engine.nn.language_model import cache_argument

    torch.set_num_threads(options.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().model
    name = cache_argument(model)

    def begin() -> Callable[[Array], Array]:
        cache = DynamicCache()

        def run(rows: Array) -> Array:
            with torch.inference_mode():
                x = torch.from_numpy(rows)[None].to(dtype)
                out = model(inputs_embeds=x, use_cache=True, **{name: cache})
            last: Array = out.last_hidden_state[0].float().numpy()
            return last

        return run

    return begin


def _engine(
    folder: Path, precision: str, options: argparse.Namespace, work: Path
) -> Callable[[], Callable[[Array], Array]]:
    from asa_engine.language_model.decoder import Decoder

    graph = work / f"{precision}.onnx"
    if not graph.exists():
        _export(folder, precision, graph)
        sys.exit(0)
    decoder = Decoder.open(graph, threads=options.threads)

    def begin() -> Callable[[Array], Array]:
        return decoder.start(options.rows + options.steps).extend

    return begin


def _export(folder: Path, precision: str, graph: Path) -> None:
    import onnx

    from asa_export.language_model import DecoderLinears, FloatDecoder, decoder_model
    from asa_export.language_model_config import DecoderConfig
    from asa_export.language_model_quantize import Int4Decoder, Int8Decoder
    from asa_export.weights import Weights

    config = DecoderConfig.from_hugging_face(json.loads((folder / "config.json").read_text()))
    weights = Weights(folder / "model.safetensors")
    kinds: dict[str, DecoderLinears] = {
        "fp32": FloatDecoder(),
        "int8": Int8Decoder(weights),  # not calibrated: as fast, less exact
        "int4": Int4Decoder(),
    }
    model = decoder_model(config, weights, kinds[precision], positions=config.positions)
    # Weights of the float32 graph lie in a file beside it; the runtime follows no links.
    if precision == "fp32":
        shutil.copyfile(weights.path, graph.with_name(weights.path.name))
    onnx.save(model, graph)


if __name__ == "__main__":
    main()
