"""`asa-engine doctor`: what works on this machine, what does not, and what `auto` would pick."""

from __future__ import annotations

import argparse
import json
import os
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
    for name, found in findings["backends"].items():
        print(f"backend {name:<20} {'ok ' if found['usable'] else 'no '} {found['reason']}")
    print(f"bundle: {findings['bundle']}")
    print(f"auto: {findings['choice']}")
    if "threads" in findings:
        print(f"threads: {findings['threads']}")
    return code


def examine(args: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Return the findings and the exit code."""
    from asa_engine.backends import BACKENDS, backend_class
    from asa_engine.bundle import Bundle
    from asa_engine.selection import choose, choose_threads

    backends = {}
    for name in BACKENDS:
        found = backend_class(name).availability()
        backends[name] = {
            "usable": found.usable,
            "reason": found.reason,
            "versions": found.versions,
        }
    findings: dict[str, Any] = {
        "engine_version": metadata.version("asa-engine"),
        "machine": {
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "cores": len(os.sched_getaffinity(0)),
        },
        "kernels": _kernels(),
        "gpu": _gpu(),
        "backends": backends,
    }
    try:
        bundle = Bundle.open(args.bundle)
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


def _gpu() -> str:
    from asa_engine.backends.gpu import CudaDriver, Gpu

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
