"""Takes every figure of one GPU, cell by cell; what is done is kept, so it can be run again.

    python -m benchmarks.gpu.run                      # everything that is not there yet
    python -m benchmarks.gpu.run --only ragged,drift  # some sections
    python -m benchmarks.gpu.run --dry                # the whole way in seconds, on the CPU

Every cell runs in a process of its own: a kernel that breaks the GPU's context, or a library that
cannot stand beside another, hurts one cell. What cannot run is kept with its reason.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asa_engine.errors import AsaError, UsageError
from asa_engine.files import atomic_write, read_json
from asa_engine.measuring.host import describe_host, git_revision
from benchmarks.command import exit_code
from benchmarks.gpu.contenders import (
    CONTENDERS,
    DRY,
    NotHere,
    Ours,
    gpu_description,
    library_versions,
)
from benchmarks.gpu.measure import MEASURES, Cell
from benchmarks.gpu.report import check_targets, render, summary_lines
from benchmarks.gpu.workloads import SIZES, describe

__all__ = ["main", "plan"]

MARK = "RESULT "
CELL_TIMEOUT_S = 1800.0
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CHECKOUT = Path(__file__).parents[2]


def plan(args: argparse.Namespace) -> Iterator[Cell]:
    """Yield every cell, sections in the order of `MEASURES`."""
    base: Cell = {"dry": args.dry, "seconds": args.seconds, "least": 3 if args.dry else 20}
    ours = [name for name in args.contenders if issubclass(CONTENDERS[name], Ours)]
    for section in args.only:
        cell = {"section": section, **base}
        if section == "peaks":
            yield cell
        elif section == "encoder":
            for size in args.sizes:
                # The largest batch first: it is what the reference's sums are kept from.
                for batch in sorted(args.batches, reverse=True):
                    for name in args.contenders:
                        yield {**cell, "size": size, "batch": batch, "contender": name}
        elif section == "ragged":
            for size in args.sizes:
                for name in args.contenders:
                    batch = min(64, max(args.batches))
                    yield {**cell, "size": size, "batch": batch, "contender": name}
        elif section == "latency":
            for name in (*(n for n in args.contenders if n.startswith("torch-eager")), *ours):
                yield {**cell, "contender": name}
        elif section == "drift":
            for name in ours:
                yield {**cell, "contender": name, "recordings": 2 if args.dry else 300}
        elif section == "stability":
            for size in args.sizes:
                for name in ours:
                    yield {**cell, "size": size, "batch": max(args.batches), "contender": name}
        else:
            first, most = (2, 4) if args.dry else (16, 65_536)
            for size in args.sizes:
                for name in ours:
                    bounds = {"first_streams": first, "most_streams": most}
                    seconds = args.seconds if args.dry else max(args.seconds, 12.0)
                    yield {**cell, "seconds": seconds, "size": size, "contender": name, **bounds}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    args = _parse(argv)
    if args.cell is not None:
        return _one(json.loads(args.cell), args.work)

    def work() -> list[str]:
        target, result = _start(args)
        for cell in plan(args):
            key = _key(cell)
            done = result["cells"].get(key)
            if done is not None and ("figures" in done or not args.again):
                continue
            print(f"gpu: {key}", file=sys.stderr, flush=True)
            result["cells"][key] = {"cell": cell, **_measure(cell, args)}
            _write(target, result)
        _write(target, result)
        return [*summary_lines(result), f"written: {target} and {target.with_suffix('.html')}"]

    return exit_code("gpu", work, "; run the same command again to go on")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=_names, help=f"sections of {', '.join(MEASURES)}")
    parser.add_argument("--sizes", type=_names, help="graders (default: tiny,large-v3)")
    parser.add_argument("--batches", type=_names, help="windows (default: 1 to 256)")
    parser.add_argument("--contenders", type=_names, help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--seconds", type=float, help="for each cell, at least (default: 5)")
    parser.add_argument("--dry", action="store_true", help="tiny shapes and stand-ins on the CPU")
    parser.add_argument("--fresh", action="store_true", help="forget what the file holds")
    parser.add_argument("--again", action="store_true", help="try again what could not run")
    parser.add_argument("--work", type=Path, default=Path("build/gpu"), help="for checkpoints")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.only = args.only or tuple(MEASURES)
    args.sizes = ("dry",) if args.dry else args.sizes or ("tiny", "large-v3")
    args.contenders = args.contenders or (DRY if args.dry else tuple(CONTENDERS))
    try:
        args.batches = tuple(map(int, args.batches or ((1, 2) if args.dry else BATCHES)))
    except ValueError:
        parser.error("--batches are whole numbers")
    args.seconds = args.seconds if args.seconds is not None else (0.0 if args.dry else 5.0)
    for what, given, known in (
        ("section", args.only, MEASURES),
        ("size", args.sizes, SIZES),
        ("contender", args.contenders, CONTENDERS),
    ):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown {what} {', '.join(unknown)}; choose from {', '.join(known)}")
    if min(args.batches) < 1:
        parser.error("--batches are at least 1")
    return args


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _key(cell: Cell) -> str:
    names = ("section", "size", "contender", "batch")
    return " ".join(str(cell[name]) for name in names if name in cell)


def _start(args: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Return where the result goes, and what of it is there already.

    Raises:
        UsageError: It is another machine's, or a dry run's, or the other way round.
    """
    gpu = gpu_description(dry=args.dry)
    slug = re.sub(r"[^a-z0-9]+", "-", gpu["name"].lower()).strip("-")
    default = (
        args.work / "gpu-dry.json"
        if args.dry
        else _CHECKOUT.joinpath("benchmarks", "results", f"gpu-{slug}.json")
    )
    target: Path = args.output or default
    fresh: dict[str, Any] = {
        "schema_version": 1,
        "dry": args.dry,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(args),
        "revision": git_revision(_CHECKOUT),
        "gpu": gpu,
        "host": describe_host().to_dict(),
        "libraries": library_versions(),
        "sizes": {name: describe(SIZES[name]) for name in args.sizes},
        "cells": {},
    }
    if args.fresh or not target.is_file():
        return target, fresh
    before = read_json(target, UsageError)
    if before.get("dry") != args.dry or before.get("gpu", {}).get("name") != gpu["name"]:
        raise UsageError(
            f"{target} is of another machine, or of a dry run",
            hint="name another file with -o, or pass --fresh",
        )
    return target, {**fresh, "cells": before["cells"]}


def _command(args: argparse.Namespace) -> str:
    words = ["python -m benchmarks.gpu.run", *(["--dry"] if args.dry else [])]
    for name in ("only", "sizes", "batches", "contenders"):
        words.append(f"--{name} {','.join(map(str, getattr(args, name)))}")
    return " ".join([*words, f"--seconds {args.seconds:g}"])


def _measure(cell: Cell, args: argparse.Namespace) -> dict[str, Any]:
    """Run a cell: {"figures": ...}, or {"not_timed": why}."""
    started = time.monotonic()
    if args.dry:
        figures = _guarded(cell, args.work)
    else:
        figures = _in_a_process(cell, args.work)
    return {**figures, "took_s": round(time.monotonic() - started, 1)}


def _guarded(cell: Cell, work: Path) -> dict[str, Any]:
    try:
        return {"figures": MEASURES[cell["section"]](cell, work)}
    except (NotHere, AsaError) as error:
        return {"not_timed": str(error)}


def _in_a_process(cell: Cell, work: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gpu.run", "--work", str(work), "--cell"]
    try:
        done = subprocess.run(
            [*command, json.dumps(cell)],
            capture_output=True,
            text=True,
            timeout=CELL_TIMEOUT_S,
            cwd=_CHECKOUT,
        )
    except subprocess.TimeoutExpired:
        return {"not_timed": f"took longer than {CELL_TIMEOUT_S:g} s"}
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            figures: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return figures
    last = (done.stderr.strip().splitlines() or ["said nothing"])[-1]
    return {"not_timed": f"ended with {done.returncode}: {last[:400]}"}


def _one(cell: Cell, work: Path) -> int:
    """The child's side of `_in_a_process`."""
    print(MARK + json.dumps(_guarded(cell, work)), flush=True)
    return 0


def _write(target: Path, result: dict[str, Any]) -> None:
    result["targets"] = check_targets(result)
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, _text(result).encode())
    atomic_write(target.with_suffix(".html"), render(result).encode())


def _text(result: dict[str, Any]) -> str:
    """JSON with a line for each cell: a result can be read, and two compared."""
    head = {name: value for name, value in result.items() if name != "cells"}
    cells = ",\n".join(
        f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in result["cells"].items()
    )
    opened = json.dumps(head, indent=1).removesuffix("\n}")
    return f'{opened},\n "cells": {{\n{cells}\n }}\n}}\n'


if __name__ == "__main__":
    sys.exit(main())
