"""`asa-engine export`: make a bundle of a checkpoint."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asa_engine.cli.options import add_command, add_json_option, positive_int
from asa_engine.cli.progress import progress
from asa_engine.errors import BackendError, BundleError, UsageError

if TYPE_CHECKING:
    from asa_engine.bundle import Bundle

NEEDED = ("onnx", "torch", "safetensors")
DEVICE = "device"
DEVICE_PRECISION = "int8"
CALIBRATION_RECORDINGS = 128

DETAILS = """\
Makes a bundle: the checkpoint, its graphs for each target and precision, and asa.json with every
hash. Every variant is compared with PyTorch, in score points, and the export is refused (exit
code 5, nothing written) where one is over its budget. With --data, int8 is calibrated on the
manifest's speakers and the comparison made on others of them; without it, both use synthetic
recordings, which show whether an export is broken but not how it drifts on real speech.
'auto' then prefers the variant that was fastest on this machine.

--target device writes one file instead, for libasa (docs/devices.md), of a bundle whose native
variant has passed: the same weights, so the same scores. --precision is what libasa packs them to.

examples:
  asa-engine export runs/acoustic -o bundles/acoustic --data train.jsonl
  asa-engine export runs/acoustic -o bundles/tiny --target onnx,native --precision int8
  asa-engine export acoustic -o grader.asa --target device
  asa-engine export pronunciation -o reading.asa --target device
  asa-engine export runs/acoustic -o bundles/gpu --target tensorrt --precision fp16 \\
      --compute-capability 8.6,8.9,12.0 --data train.jsonl
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "export", run, "Export a checkpoint to a bundle.", DETAILS)
    parser.add_argument(
        "source",
        metavar="CHECKPOINT_OR_BUNDLE",
        help="a checkpoint's folder, a bundle's, or the name of one that ships",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="BUNDLE", help="what to make"
    )
    parser.add_argument(
        "--target",
        action="append",
        metavar="T",
        help="onnx (default), native, ctranslate2, tensorrt, onnx-cuda or onnx-tensorrt, as far as "
        "the grader has them; repeat it or separate with commas; or device alone",
    )
    parser.add_argument(
        "--precision",
        action="append",
        metavar="P",
        help="fp32, fp16, bf16, int8 or int4 (default: all that the target has); as --target",
    )
    parser.add_argument(
        "--compute-capability",
        action="append",
        metavar="C",
        help="with --target tensorrt: also build the engines for GPUs such as 8.9, by TensorRT-RTX "
        "and without a GPU; as --target",
    )
    parser.add_argument("--data", type=Path, metavar="MANIFEST", help="scored recordings")
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="compare on at most N recordings"
    )
    parser.add_argument("--name", default="", help="the bundle's name (default: its folder's)")
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="model card (default: the source's, if any)"
    )
    parser.add_argument("--force", action="store_true", help="replace what stands at BUNDLE")
    add_json_option(parser, "the report")


def run(args: argparse.Namespace) -> int:
    """Export, then print what was made and how far its scores move."""
    if DEVICE in (targets := _listed(args.target, "onnx")):
        return _write_device_file(args, targets)
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise BackendError(
            f"export needs {', '.join(missing)}", hint="pip install 'asa-engine[export,train]'"
        )
    from asa_engine.bundle import Bundle
    from asa_export.exporter import export, plan, targets_of
    from asa_export.speech import manifest_speech, synthetic_speech

    source = Bundle.open(args.source, lambda bundle: set(targets) <= targets_of(bundle.grader))
    variants = plan(targets, _listed(args.precision, ""), source.grader)
    if args.data is None:
        parts = source.config.get("parts") or ()
        speech = synthetic_speech([str(part["name"]) for part in parts])
    else:
        speech = manifest_speech(args.data, calibrate=CALIBRATION_RECORDINGS, limit=args.limit)
    capabilities = _listed(args.compute_capability, "")
    report = export(
        source.path,
        args.output,
        variants,
        speech,
        name=args.name,
        card=args.card,
        overwrite=args.force,
        progress=progress,
        finish=_engines(capabilities, targets) if capabilities else None,
    )
    if args.json:
        print(json.dumps(report.to_dict()))
        return 0
    for parity in report.parity:
        print(parity.table())
        took = report.cpu_ms.get(parity.variant)
        said = "is timed by 'asa-engine tune' on its device"
        if took is not None:
            said = f"takes {took:.1f} ms (1 thread, here)"
        print(f"  {report.timed} {said}")
    for file, size in report.bytes.items():
        print(f"{size:>12,}  {file}")
    print(f"{sum(report.bytes.values()):>12,}  bytes in all: {report.path}")
    return 0


def _write_device_file(args: argparse.Namespace, targets: list[str]) -> int:
    """Write one file for libasa, and print what it holds."""
    from asa_engine.bundle import Bundle
    from asa_engine.files import atomic_write, sha256_file
    from asa_engine.graders import grader_entry
    from asa_engine.graders.entry import load_attribute

    precisions = _listed(args.precision, DEVICE_PRECISION)
    if targets != [DEVICE] or len(precisions) != 1:
        raise UsageError(
            "--target device makes one file, of one precision",
            hint="export other targets by themselves",
        )
    if args.data or args.card or args.compute_capability or args.limit:
        raise UsageError(
            "--target device takes --precision, --name and --force alone",
            hint="leave out the other options",
        )
    bundle = Bundle.open(args.source, lambda shipped: bool(grader_entry(shipped.grader).device))
    make = grader_entry(bundle.grader).device
    if not make:
        raise BackendError(
            f"libasa does not run the {bundle.grader} grader",
            hint="choose an acoustic or pronunciation grader",
        )
    passed = bundle.stages.get("grader", {}).get("native", {})
    if precisions[0] not in passed:
        raise BundleError(
            f"{bundle.path} has no native variant at {precisions[0]}",
            hint=f"it has {', '.join(passed)}" if passed else "export it with --target native",
        )
    if args.output.is_dir() or (args.output.exists() and not args.force):
        raise UsageError(f"{args.output} exists already", hint="choose another or pass --force")
    name = args.name or bundle.name
    data = load_attribute(make)(bundle, precisions[0], name)
    atomic_write(args.output, data)
    report = {
        "path": str(args.output),
        "bytes": len(data),
        "sha256": sha256_file(args.output),
        "name": name,
        "grader": bundle.grader,
        "precision": precisions[0],
    }
    said = f"{len(data):>12,}  {args.output}: {name}, the {bundle.grader} grader"
    print(json.dumps(report) if args.json else said)
    return 0


def _engines(capabilities: list[str], targets: list[str]) -> Callable[[Bundle], object]:
    """Return what builds engines for these GPUs, having checked that it can."""
    from asa_engine.gpu.tensorrt_engines import load_library
    from asa_export.tensorrt import build_engines, parse_capability

    wanted = [parse_capability(capability) for capability in capabilities]
    if "tensorrt" not in targets:
        raise UsageError(
            "--compute-capability builds TensorRT engines", hint="add --target tensorrt"
        )
    load_library()
    return partial(build_engines, compute_capabilities=wanted)


def _listed(values: list[str] | None, default: str) -> list[str]:
    """Split repeated, comma-separated options."""
    joined = ",".join(values) if values else default
    return [part.strip() for part in joined.split(",") if part.strip()]
