"""Bundles that were changed, cut, or made by someone hostile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from asa_engine.bundle import FORMAT_REVISION, Bundle
from asa_engine.cli.main import main
from asa_engine.engine import open_bundle
from asa_engine.errors import BundleError

DEMO = Path(__file__).parents[2] / "examples" / "audio" / "demo.flac"


def _edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "asa.json").read_text())
    manifest.update(changes)
    (folder / "asa.json").write_text(json.dumps(manifest))


def test_opens_and_lists_variants(fake_bundle: Path) -> None:
    bundle = Bundle.open(fake_bundle)
    assert bundle.grader == "acoustic"
    assert bundle.variants() == (("onnxruntime", "fp32"),)
    assert bundle.file("encoder", "onnxruntime", "fp32") == fake_bundle / "weights.bin"


def test_a_flipped_bit_is_refused(fake_bundle: Path) -> None:
    data = bytearray((fake_bundle / "weights.bin").read_bytes())
    data[500] ^= 1
    (fake_bundle / "weights.bin").write_bytes(data)
    with pytest.raises(BundleError, match=r"weights\.bin is not the file .* hash differs"):
        Bundle.open(fake_bundle)


def test_a_missing_artifact_is_named(fake_bundle: Path) -> None:
    (fake_bundle / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin is missing"):
        Bundle.open(fake_bundle)


def test_a_newer_format_asks_for_an_upgrade(fake_bundle: Path) -> None:
    _edit(fake_bundle, format_revision=FORMAT_REVISION + 1)
    with pytest.raises(BundleError, match="upgrade asa-engine"):
        Bundle.open(fake_bundle)


@pytest.mark.parametrize("revision", [None, "1", 0, 1.5])
def test_a_format_revision_that_is_none_is_refused(fake_bundle: Path, revision: object) -> None:
    _edit(fake_bundle, format_revision=revision)
    with pytest.raises(BundleError, match="format_revision"):
        Bundle.open(fake_bundle)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "", "a\\b", 7])
def test_artifacts_cannot_lead_out(fake_bundle: Path, name: Any) -> None:
    (fake_bundle.parent / "outside").write_bytes(b"x")
    _edit(fake_bundle, stages={"encoder": {"onnxruntime": {"fp32": name}}})
    with pytest.raises(BundleError, match="malformed"):
        Bundle.open(fake_bundle)


def test_links_cannot_lead_out(fake_bundle: Path) -> None:
    outside = fake_bundle.parent / "outside.bin"
    shutil.move(fake_bundle / "weights.bin", outside)
    (fake_bundle / "weights.bin").symlink_to(outside)
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle.open(fake_bundle)


def test_an_artifact_without_a_hash_is_refused(fake_bundle: Path) -> None:
    (fake_bundle / "other.bin").write_bytes(b"x")
    _edit(fake_bundle, stages={"encoder": {"onnxruntime": {"fp32": "other.bin"}}})
    with pytest.raises(BundleError, match=r"lists no hash for other\.bin"):
        Bundle.open(fake_bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format_revision": 1}', "[" * 100_000])
def test_a_broken_manifest_is_refused(fake_bundle: Path, text: str) -> None:
    (fake_bundle / "asa.json").write_text(text)
    with pytest.raises(BundleError):
        Bundle.open(fake_bundle)


def test_a_folder_that_is_no_bundle_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"neither asa\.json nor config\.json"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="not a bundle folder"):
        Bundle.open(tmp_path / "nowhere")


def test_asking_for_what_it_does_not_hold_names_what_it_holds(fake_bundle: Path) -> None:
    with pytest.raises(BundleError, match="onnxruntime/fp32"):
        Bundle.open(fake_bundle).file("encoder", "native", "int8")


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "pronunciation"),
        ({"bundle": "default"}, "pronunciation"),
        ({"backend": "native"}, "pronunciation"),
        ({"precision": "int8"}, "pronunciation"),
        ({"precision": "fp32"}, "acoustic"),
        ({"backend": "onnxruntime"}, "acoustic"),
        ({"backend": "fake"}, "acoustic"),
        ({"backend": "torch"}, "pronunciation"),
        ({"backend": "abacus"}, "pronunciation"),
        ({"bundle": "pronunciation", "precision": "fp32"}, "pronunciation"),
        ({"bundle": "acoustic"}, "acoustic"),
    ],
)
def test_the_default_is_the_first_that_runs_on_what_is_asked_for(
    asked: dict[str, str], name: str
) -> None:
    assert open_bundle(**asked).name == name


def test_a_folder_goes_before_a_name_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acoustic").mkdir()
    with pytest.raises(BundleError, match=r"neither asa\.json nor"):
        Bundle.open("acoustic")


def test_lines_with_a_text_and_without_are_scored_by_the_default(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copy(DEMO, tmp_path / "a.flac")
    (tmp_path / "mixed.csv").write_text("audio,text\na.flac,Hi there\na.flac,\n")
    main(["assess", str(tmp_path / "mixed.csv"), "--json"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["grader"] for row in told] == ["pronunciation"] * 2
    assert set(told[1]["scores"]) == {"accuracy", "fluency", "prosodic", "total"}
    assert "words" in told[0] or told[0]["validity"]["reasons"] == ["text_mismatch"]


def test_a_text_is_never_given_to_a_grader_that_hears_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["assess", str(DEMO), "--text", "Hi", "--backend", "onnxruntime"]) == 4
    assert "pronunciation has no artifact for backend onnxruntime" in capsys.readouterr().err
