"""`asa-engine doctor`: what works on this machine, what does not, and what `auto` would pick."""

from __future__ import annotations

import argparse
import json
import platform
from importlib import metadata
from typing import Any

from asa_engine.cli.options import add_command, add_engine_options, add_json_option
from asa_engine.errors import AsaError


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "doctor", run, "Check this machine: backends, kernels, bundle, what auto picks."
    )
    add_engine_options(parser)
    add_json_option(parser, "the findings")


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit 4 when the bundle cannot run here."""
    findings, code = examine(args)
    if args.json:
        print(json.dumps(findings))
        return code
    machine = findings["machine"]
    print(f"asa-engine {findings['engine_version']}, Python {machine['python']}")
    print(f"{machine['platform']}, {machine['cores']} core(s) usable")
    print(f"kernels: {findings['kernels']}")
    print(f"gpu: {findings['gpu']}")
    print(f"recordings: {findings['recordings']}")
    for name, state in findings["graders"].items():
        print(f"grader  {name:<20} {'ok ' if state['usable'] else 'no '} {state['reason']}")
    for name, backend in findings["backends"].items():
        print(f"backend {name:<20} {'ok ' if backend['usable'] else 'no '} {backend['reason']}")
    print(f"bundle: {findings['bundle']}")
    print(f"auto: {findings['choice']}")
    if "threads" in findings:
        print(f"threads: {findings['threads']}")
    return code


def examine(args: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Return the findings and the exit code."""
    from asa_engine.engine import open_bundle
    from asa_engine.runtimes import RUNTIMES, runtime
    from asa_engine.selection import choose, choose_threads, usable_cores

    backends = {}
    for name in RUNTIMES:
        state = runtime(name).availability()
        backends[name] = {
            "usable": state.usable,
            "reason": state.reason,
            "versions": state.versions,
        }
    findings: dict[str, Any] = {
        "engine_version": metadata.version("asa-engine"),
        "machine": {
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "cores": usable_cores(),
        },
        "kernels": _kernels(),
        "gpu": _gpu(),
        "recordings": _recordings(),
        "backends": backends,
        "graders": _graders(),
    }
    try:
        bundle = open_bundle(args.bundle, args.backend, args.precision)
        findings["bundle"] = (
            f"{bundle.name} {bundle.version} ({bundle.grader}), every hash agrees; "
            f"variants {', '.join('/'.join(v) for v in bundle.variants())}"
        )
        choice = choose(bundle, args.backend, args.precision)
        findings["choice"] = f"{choice.backend}/{choice.precision} ({choice.reason})"
        threads, why = choose_threads(bundle, choice, args.threads)
        findings["threads"] = f"{threads} ({why})"
    except AsaError as error:
        findings.setdefault("bundle", f"unusable: {error}")
        findings["choice"] = f"nothing can run: {error}"
        return findings, error.exit_code
    return findings, 0


def _graders() -> dict[str, dict[str, Any]]:
    from asa_engine.graders import grader_entries

    entries, broken = grader_entries()
    usable = {name: {"usable": True, "reason": e.summary} for name, e in entries.items()}
    return usable | {name: {"usable": False, "reason": why} for name, why in broken.items()}


def _recordings() -> str:
    """Say what is read, and by which libraries."""
    import soundfile

    read = f"WAV, FLAC, Ogg, MP3 (libsndfile {soundfile.__libsndfile_version__})"
    try:
        return f"{read}; WebM, MP4, AAC, AMR and more (PyAV {metadata.version('av')})"
    except metadata.PackageNotFoundError:
        return f"{read}; with pip install 'asa-engine[media]' also WebM, MP4, AAC, AMR and more"


def _gpu() -> str:
    from asa_engine.gpu.device_memory import CudaDriver, Gpu

    try:
        gpu = Gpu(CudaDriver.open())
    except AsaError as error:
        return f"none: {error}"
    machine = gpu.machine()
    gpu.close()
    return (
        f"{machine.name}, compute capability {'{}.{}'.format(*machine.compute_capability)}, "
        f"{machine.free_bytes // 2**20} of {machine.total_bytes // 2**20} MiB free, "
        f"driver for {machine.driver}"
    )


def _kernels() -> str:
    try:
        from asa_engine import kernels

        return f"compiled; instruction set in use: {kernels.isa()}"
    except (ImportError, AsaError, RuntimeError, ValueError) as error:
        return f"unusable: {error}"
