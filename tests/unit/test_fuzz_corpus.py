"""The fuzzer's files are read whole, and their beginnings are read or refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from asa_engine.audio import SAMPLE_RATE_HZ, read_audio
from asa_engine.errors import AudioError

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
LENGTHS_S = {"chained.opus": 1.0, "joined.flac": 1.0, "joined.mp3": 1.0}
PADDING_S = 0.25  # two frames of 1024 samples at 8 kHz


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_every_kind_is_read(path: Path) -> None:
    if path.suffix not in (".wav", ".flac", ".ogg", ".opus", ".mp3", ".mp2"):
        pytest.importorskip("av")
    seconds = len(read_audio(path)) / SAMPLE_RATE_HZ
    expected = LENGTHS_S.get(path.name, 0.5)
    missing_s = 0.06 if path.suffix == ".wma" else 0.01  # ffmpeg's encoder drops the last frame
    assert expected - missing_s <= seconds <= expected + PADDING_S


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_every_beginning_is_read_or_refused(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = path.read_bytes()
    for length in {int(n) for n in np.geomspace(1, len(data), 40)}:
        with contextlib.suppress(AudioError):
            assert np.isfinite(read_audio(data[:length])).all()
    assert capfd.readouterr().err == ""
