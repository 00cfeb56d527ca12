"""Packed weights on disk: the same bits as packed in memory, and nothing else is believed."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asa_engine.bundle import Bundle, write_manifest
from asa_engine.errors import BundleError
from asa_engine.graders.acoustic.backends import packed
from asa_engine.graders.acoustic.backends.native import NativeBackend
from asa_engine.graders.acoustic.backends.packed import PACKED_FOLDER, cache_file, read_packed
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.acoustic.model import AcousticGrader
from asa_engine.graders.aspects import AspectConfig
from asa_engine.kernels.encoder import PRECISIONS, Encoder
from asa_engine.nn.config import WhisperEncoderConfig

CONFIG = WhisperEncoderConfig(n_mels=80, d_model=48, layers=2, heads=3, ffn=96, positions=200)
KEY = "a key"
WORDS = np.arange(100, dtype=np.int32)

Words = NDArray[np.int32]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grader with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("packed") / "checkpoint"
    AcousticGrader(AcousticConfig(aspects=(AspectConfig("total"),), encoder=CONFIG)).save(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASA_PACKED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def mel() -> NDArray[np.float32]:
    return np.random.default_rng(5).uniform(-1, 1.5, (80, 97)).astype(np.float32)


def stats(bundle: Bundle, precision: str) -> NDArray[np.float32]:
    return NativeBackend.open(bundle, precision=precision, threads=1).encode(mel()).stats


def never(self: Encoder, *args: object) -> None:
    raise AssertionError("packed again")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_second_opening_maps_the_same_bits(
    checkpoint: Path, cache: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(checkpoint)
    first = stats(bundle, precision)
    (file,) = cache.iterdir()
    assert file.suffix == ".packed"
    monkeypatch.setattr(packed, "write_packed", never)
    np.testing.assert_array_equal(stats(bundle, precision), first)
    monkeypatch.setenv("ASA_PACKED_CACHE", "off")
    np.testing.assert_array_equal(stats(bundle, precision), first)


def test_other_weights_are_another_file(checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    first = stats(Bundle.open(checkpoint), "bf16")
    torch.manual_seed(1)
    other = AcousticGrader(AcousticConfig(aspects=(AspectConfig("total"),), encoder=CONFIG))
    other.save(tmp_path / "other")
    assert not np.array_equal(stats(Bundle.open(tmp_path / "other"), "bf16"), first)
    assert len(list(cache.iterdir())) == 2


def test_a_folder_that_cannot_be_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASA_PACKED_CACHE", str(tmp_path / "file" / "cache"))
    assert np.isfinite(stats(Bundle.open(checkpoint), "int8")).all()


def test_a_bundle_with_its_own_packed_weights(
    checkpoint: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Bundle.open(checkpoint)
    expected = stats(source, "int8")
    backend = NativeBackend.open(source, precision="int8", threads=1)
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in source.artifacts:
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    backend.write_packed(folder)
    (own,) = (folder / PACKED_FOLDER).iterdir()
    files = {"native": {"int8": "weights.safetensors"}}
    write_manifest(
        folder,
        name="b",
        version="1",
        grader="acoustic",
        stages={"grader": files},
        auto=(),
        parity={},
    )
    for file in cache.iterdir():
        file.unlink()
    monkeypatch.setattr(packed, "write_packed", never)
    np.testing.assert_array_equal(stats(Bundle.open(folder), "int8"), expected)
    own.write_bytes(own.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError, match="its hash differs"):
        Bundle.open(folder)


def flip(file: bytes) -> bytes:
    return file[:-1] + bytes([file[-1] ^ 1])


def header(**changes: object) -> Callable[[bytes], bytes]:
    def change(file: bytes) -> bytes:
        fields = {"key": KEY, "words": WORDS.size, "sha256": hashlib.sha256(WORDS.data).hexdigest()}
        text = json.dumps({**fields, **changes}).encode()
        return (b"asa packed\n" + struct.pack("<I", len(text)) + text).ljust(4096, b"\0") + file[
            4096:
        ]

    return change


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda file: b"",
        lambda file: file[:-4],
        lambda file: file + b"\0\0\0\0",
        lambda file: b"asa packed\n" + b"\xff" * 4 + file[15:],
        lambda file: b"ASA packed\n" + file[11:],
        lambda file: file[:15] + b"[" * 2000 + file[2015:],
        header(key="another key"),
        header(words=WORDS.size - 1),
        header(words=None),
        header(sha256="0" * 64),
        header(sha256=None),
    ],
)
def test_damaged_files_are_none(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "w.packed"
    assert packed.write_packed(path, KEY, WORDS)
    whole = path.read_bytes()
    np.testing.assert_array_equal(read_packed(path, KEY, WORDS.size), WORDS)
    assert header()(whole) == whole
    path.write_bytes(damage(whole))
    assert read_packed(path, KEY, WORDS.size) is None


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 4600), byte=st.integers(0, 255), cut=st.none() | st.integers(0, 4600))
def test_any_damage(tmp_path: Path, at: int, byte: int, cut: int | None) -> None:
    path = tmp_path / "w.packed"
    packed.write_packed(path, KEY, WORDS)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[min(at, len(whole) - 1)] = byte
    path.write_bytes(damaged[:cut])
    found = read_packed(path, KEY, WORDS.size)
    assert found is None or np.array_equal(found, WORDS)


def test_files_that_others_can_write_are_none(tmp_path: Path) -> None:
    path = tmp_path / "w.packed"
    packed.write_packed(path, KEY, WORDS)
    link = tmp_path / "link.packed"
    link.symlink_to(path)
    assert read_packed(link, KEY, WORDS.size) is None
    assert read_packed(tmp_path, KEY, WORDS.size) is None
    os.mkfifo(tmp_path / "pipe")
    assert read_packed(tmp_path / "pipe", KEY, WORDS.size) is None
    for mode in (0o622, 0o666, 0o664):
        path.chmod(mode)
        assert read_packed(path, KEY, WORDS.size) is None
        assert read_packed(path, KEY, WORDS.size, vouched=True) is not None


def test_words_of_another_encoder_are_refused() -> None:
    def read(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return np.full(shape, 0.1, np.float32)

    encoder = Encoder(CONFIG, read, precision="bf16")
    words = encoder.packed().copy()
    for wrong in (words[:-1], np.append(words, np.int32(0)), words[:0]):
        with pytest.raises(ValueError, match="not the packed weights"):
            Encoder(CONFIG, read, precision="bf16", packed=lambda count, w=wrong: w)  # type: ignore[misc]
    aligned = np.empty(words.size + 32, np.int32)
    at = -aligned.ctypes.data % 64 // 4
    for offset in (1, 8):
        moved = aligned[at + offset : at + offset + words.size]
        moved[:] = words
        with pytest.raises(ValueError, match="not the packed weights"):
            Encoder(CONFIG, read, precision="bf16", packed=lambda count, w=moved: w)  # type: ignore[misc]
    moved = aligned[at : at + words.size]
    moved[:] = words
    same = Encoder(CONFIG, read, precision="bf16", packed=lambda count: moved)
    np.testing.assert_array_equal(same.encode([mel()])[0], encoder.encode([mel()])[0])


def test_only_so_many_are_kept(
    checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    for index in range(20):
        file = cache / f"{index}.packed"
        file.write_text("")
        os.utime(file, (index, index))
    stats(Bundle.open(checkpoint), "bf16")
    names = {file.name for file in cache.iterdir()}
    assert len(names) == 16
    assert "19.packed" in names
    assert "4.packed" not in names


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ASA_PACKED_CACHE": "off"}, None),
        ({"ASA_PACKED_CACHE": "/there"}, "/there"),
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/asa-engine/packed"),
        ({"HOME": "/house/x"}, "/house/x/.cache/asa-engine/packed"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/house/x"}, "/house/x/.cache/asa-engine/packed"),
    ],
)
def test_where_the_cache_is(
    variables: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ASA_PACKED_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = cache_file(KEY)
    assert (None if found is None else str(found.parent)) == expected
