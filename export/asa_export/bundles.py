"""Make a bundle of every checkpoint in a folder: fetch its backbones, export, verify.

    python -m asa_export.bundles models build/bundles [MANIFEST]

Only what runs without a GPU is made; 'asa-engine export --target' makes the rest.

With a manifest, scores are compared on real speech of speakers held out; without one, exports are
compared on synthetic recordings and nothing is verified, and graders that score nothing without a
text are left out. Graders of sessions are compared on those
of the manifest beside it whose name ends in "-sessions".
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from asa_engine.bundle import CONFIG_NAME
from asa_engine.cli.main import main as cli
from asa_engine.errors import CheckpointError
from asa_engine.files import read_json
from asa_engine.graders import grader_entry
from asa_export.exporter import exporter_of

__all__ = ["main", "steps"]

ON_GPU = frozenset({"cuda", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"})
"""Backends left to those who have a GPU."""

EXPORT_LIMIT, VERIFY_LIMIT = 100, 20
"""Recordings that an export is judged on, and a bundle verified on."""


def steps(checkpoint: Path, bundle: Path, manifest: Path | None) -> Iterator[list[str]]:
    """Yield the commands that make one bundle, as arguments of `asa-engine`."""
    config = read_json(checkpoint / CONFIG_NAME, CheckpointError)
    named = config.get("backbones") or dict(config.get("speech") or {}).get("backbones")
    if backbones := dict.fromkeys(map(str, dict(named or {}).values())):
        yield ["backbones", "fetch", *backbones]
    exporter = exporter_of(str(config.get("grader")))
    lacking = {target for target, name in exporter.needs.items() if not config.get(name)}
    targets = ",".join(
        target
        for target, (backend, _) in exporter.targets.items()
        if target not in lacking and backend not in ON_GPU
    )
    export = ["export", str(checkpoint), "-o", str(bundle), "--target", targets, "--force"]
    if manifest is None:
        yield export
        return
    if grader_entry(str(config.get("grader"))).session is not None:
        sessions = manifest.with_name(f"{manifest.stem}-sessions{manifest.suffix}")
        if not sessions.is_file():
            yield export
            return
        manifest = sessions
    data = ["--data", str(manifest)]
    yield [*export, *data, "--limit", str(EXPORT_LIMIT)]
    verify = ["verify", str(bundle), "--against", str(checkpoint), *data]
    yield [*verify, "--dev", "--limit", str(VERIFY_LIMIT)]


def main(arguments: Sequence[str]) -> int:
    """Make all bundles; stop at the first command that fails and return its exit code."""
    if len(arguments) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    models, bundles, *rest = map(Path, arguments)
    manifest = rest[0] if rest and rest[0].is_file() else None
    if manifest is None:
        print("no manifest: bundles are compared on synthetic recordings and not verified")
    for config in sorted(models.glob(f"*/{CONFIG_NAME}")):
        grader = str(read_json(config, CheckpointError).get("grader"))
        if manifest is None and (needed := grader_entry(grader).requires):
            print(f"{config.parent.name} is left out: it needs a manifest with {', '.join(needed)}")
            continue
        for step in steps(config.parent, bundles / config.parent.name, manifest):
            print(f"$ asa-engine {' '.join(step)}", flush=True)
            if code := cli(step):
                return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
