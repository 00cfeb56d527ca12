"""What users may import, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import asa_engine

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "asa_engine"

# Layers from the top; a module may import its own layer and those below.
LAYERS = [
    {"__main__", "cli", "server"},
    {
        "bench",
        "evaluation",
        "granular",
        "layer_search",
        "session",
        "training",
        "tuned_bundle",
        "tuning",
    },
    {"engine", "stream", "session_stream", "selection"},
    {
        "features",
        "backends",
        "graders",
        "language_model",
        "recogniser",
        "validity",
        "vad",
        "assessment",
        "profiling",
        "request",
    },
    {"nn", "kernels", "objectives", "metrics", "pictures"},
    {
        "audio",
        "backbones",
        "bundle",
        "corpora",
        "errors",
        "files",
        "manifest",
        "recipes",
        "_cuda",
        "_kernels",
    },
]


def test_public_names_are_locked() -> None:
    assert asa_engine.__all__ == [
        "ArtifactError",
        "AsaError",
        "Assessment",
        "AudioError",
        "BackendError",
        "BundleError",
        "CheckpointError",
        "DriftError",
        "Embedding",
        "Engine",
        "ManifestError",
        "PartResult",
        "Prior",
        "Score",
        "Stream",
        "Timing",
        "UsageError",
        "Validity",
        "load",
    ]
    for name in asa_engine.__all__:
        assert getattr(asa_engine, name).__name__ == name


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = asa_engine.nothing


def _rank(module: str) -> int:
    for rank, names in enumerate(LAYERS):
        if module in names:
            return rank
    raise AssertionError(f"asa_engine.{module} stands in no layer: add it to LAYERS")


def _imports(path: Path) -> set[str]:
    """Modules imported when the file is imported: not those inside functions or TYPE_CHECKING."""
    found: set[str] = set()
    body = list(ast.parse(path.read_text(encoding="utf-8")).body)
    for node in body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in _imports(path):
        assert not module.startswith("asa_export"), f"{path} imports {module}"
        parts = module.split(".")
        if parts[0] == "asa_engine" and len(parts) > 1:
            assert _rank(own) <= _rank(parts[1]), f"{own} imports {module}, which stands above it"


def test_running_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "import asa_engine.engine, asa_engine.session, asa_engine.evaluation\n"
        "from asa_engine.cli.main import build_parser; build_parser()\n"
        "unwanted = {'torch', 'transformers', 'onnx', 'safetensors', 'asa_export'}\n"
        "heavy = unwanted & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
