"""Made-up candidates, rows and results of benchmarks, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asa_engine.bench.result import assemble
from asa_engine.bundle import Bundle
from asa_engine.evaluation.drift import Drift
from asa_engine.measuring.harness import Candidate, Refused, rows_of
from asa_engine.measuring.host import Host
from asa_engine.measuring.scenarios import Task
from asa_engine.measuring.speech import Speech
from asa_engine.tuning.tune import Trial, Tuning

HOST = Host(
    cpu="Example CPU (family 1, model 2)",
    cores=2,
    cpu_flags=("avx2",),
    caches={"L2": "1024K"},
    memory_gib=8.0,
    system="Linux 6.1 x86_64",
    python="3.11.0 (CPython)",
    libraries={"numpy": "2.0.0"},
    kernel_isa="avx2",
    load_average=(0.0, 0.0, 0.0),
)


ROOFLINE: dict[str, Any] = {
    "roofs": {
        "isa": "avx2",
        "threads": 1,
        "operations_per_s": {"fp32": 1e11, "int8": 4e11},
        "bytes_per_s": {"L1": 2e11, "memory": 1e10},
    },
    "kernels": [
        {
            "variant": "native/int8",
            "kernel": kernel,
            "precision": precision,
            "calls": 4,
            "ms": 2.0,
            "share": share,
            "operations": operations,
            "bytes": 1e7,
            "gflops": gflops,
            "gb_per_s": 5.0,
            "of_peak": gflops and gflops / 400,
        }
        for kernel, precision, share, operations, gflops in (
            ("feed-forward in", "int8", 0.75, 1e9, 200.0),
            ("layer norm", "fp32", 0.2, 1e7, 10.0),
            ("pack", "fp32", 0.05, 0.0, None),
        )
    ],
}


def candidate(name: str = "onnxruntime/int8", **changes: Any) -> Candidate:
    backend, _, precision = name.partition("/")
    fields = dict(kind="engine", options={}, threads=1, backend=backend, precision=precision)
    return Candidate(name, **{**fields, **changes})


REFERENCE = dict(kind="batched-reference", backend="torch", precision="fp32", is_reference=True)


def make_rows(
    scenario: str = "Offline",
    *,
    ours_ms: float = 10.0,
    audio_s: float = 30.0,
    name: str = "onnxruntime/int8",
) -> list[dict[str, Any]]:
    task = Task(scenario, f"{audio_s:g} s", (Path("x.flac"),), audio_s)
    slow, fast = candidate("slow", **REFERENCE), candidate("fast", **REFERENCE)
    ours = candidate(name, precision="int8")
    samples = {slow: [[50.0], [50.0]], fast: [[40.0], [40.0]], ours: [[ours_ms], [ours_ms]]}
    drift = Drift(0.001, 0.002, 0.02, 0.1, 50, "score points")
    return rows_of(task, samples, {fast: drift, ours: drift})


def make_result(rows: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    bundle = Bundle(
        path=Path("somewhere"),
        name="example",
        version="1",
        grader="acoustic",
        config={"window_s": 4.0},
        stages={},
        artifacts={},
        auto=(("onnxruntime", "int8"),),
        sha256="0" * 64,
    )
    speech = Speech("a corpus", {5.0: Path("a"), 30.0: Path("b")}, (Path("c"),), 30.0, (Path("d"),))
    cold = {
        "command": "asa-engine assess clip_5s.flac",
        "seconds": [0.5, 0.6],
        "p50_s": 0.55,
        "peak_rss_mb": 200.0,
        "packages_imported": 80,
        "forbidden_imported": [],
    }
    fields: dict[str, Any] = dict(
        command="asa-engine bench",
        host=HOST,
        load_after=(0.5, 0.2, 0.1),
        bundle=bundle,
        speech=speech,
        method={
            "rounds": 2, "passes": 3, "chunk_ms": 100, "paced_chunks": 5, "reference_batch": 16,
        },
        rows=[
            *make_rows("TimeToScore", ours_ms=2.0),
            *make_rows("SingleStream", audio_s=5.0),
            *make_rows("Offline"),
            *make_rows("LogMel", audio_s=5.0, ours_ms=6.0)[1:],
        ] if rows is None else rows,
        workers=[
            {
                "candidate": "fast",
                "threads": 1,
                "peak_rss_mb": 300.0,
                "idle_cpu_share": 0.001,
                "stages_ms": {"encoder": 9.0},
            }
        ],
        refused=[
            Refused("onnxruntime/int4", 1, "too far", Drift(1, 2, 0.1, 0.2, 50, "score points"))
        ],
        skipped=[{"candidate": "native/bf16", "reason": "not here"}],
        cold=cold,
        install={
            "source": "x.whl",
            "total_mb": 210.0,
            "without_installer_mb": 190.0,
            "largest": {"onnxruntime": 90.0},
        },
        roofline=ROOFLINE,
    )  # fmt: skip
    return assemble(**{**fields, **changes})


def tuning_of(bundle: Bundle, trials: tuple[Trial, ...], **changes: Any) -> Tuning:
    """Return what tuning a bundle on three recordings, in two rounds, came to."""
    known = {"recordings": 3, "window_s": 1.0, "rounds": 2, "cpu": "a CPU", "busy": False}
    return Tuning(
        bundle_sha256=bundle.sha256,
        reference="torch/fp32",
        budget_rms=0.033,
        trials=trials,
        **{"skipped": {}, **known, **changes},
    )
