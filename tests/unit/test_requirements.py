"""The lock files hold what pyproject.toml asks for, hashed, and no CUDA where none is wanted."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
EXTRAS = {
    "runtime": None,
    "bundles": "bundles",
    "dev": "dev",
    "server": "server",
    "ray": "ray",
    "onnxruntime-gpu": "gpu",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}


def pins(name: str) -> dict[str, Version]:
    """Packages of a lock file and their releases."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    found = re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {package: Version(release) for package, release in found}


def asked(extra: str | None) -> Iterator[Requirement]:
    """What an extra asks for, the extras inside it unfolded."""
    lines = PROJECT["dependencies"] + (PROJECT["optional-dependencies"][extra] if extra else [])
    for requirement in map(Requirement, lines):
        if canonicalize_name(requirement.name) == PROJECT["name"]:
            for inner in requirement.extras:
                yield from asked(inner)
        else:
            yield requirement


@pytest.mark.parametrize("name", EXTRAS)
def test_pins_lie_in_the_declared_ranges(name: str) -> None:
    locked = pins(name) | pins("torch-cuda")
    for requirement in asked(EXTRAS[name]):
        release = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(release), f"{requirement} is pinned at {release}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_pin_has_hashes_and_no_address(lock: Path) -> None:
    text = re.sub(r"^#.*$", "", lock.read_text(), flags=re.MULTILINE)
    entries = [entry for entry in re.split(r"\n(?=\S)", text.strip()) if entry]
    assert entries
    for entry in entries:
        assert re.fullmatch(
            r"[a-z0-9.-]+==\S+( ; [^\\\n]+)? \\(\n    --hash=sha256:[0-9a-f]{64}( \\)?)+", entry
        ), entry


@pytest.mark.parametrize("name", ["build", "runtime", "bundles", "dev"])
def test_no_cuda_comes_with_the_cpu_build(name: str) -> None:
    assert not {
        package for package in pins(name) if package.startswith(("nvidia", "cuda", "torch"))
    }


@pytest.mark.parametrize("name", ["runtime", "server", "test", "dev"])
def test_ray_comes_where_it_is_asked_for(name: str) -> None:
    assert "ray" in pins("ray")
    assert "ray" not in pins(name)


def test_both_builds_of_torch_are_one_release() -> None:
    cpu = pins("torch-cpu")["torch"]
    assert cpu.local == "cpu"
    assert pins("torch-cuda")["torch"] == Version(cpu.public)


def test_what_files_share_they_share_at_one_release() -> None:
    dev = pins("dev")
    for name in ("runtime", "bundles", "build", "server", "ray", "torch-cuda"):
        for package, release in pins(name).items():
            assert dev.get(package, release) == release, f"{package} of {name}"
