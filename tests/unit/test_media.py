"""What libsndfile does not read: named without PyAV, read to its end with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import container_samples as make
import numpy as np
import pytest
from audio_samples import RATE_HZ
from container_samples import B_S, wav

from asa_engine.audio import read_audio
from asa_engine.errors import AudioError


def check(data: bytes, expected_s: float, slack_s: float) -> None:
    samples = read_audio(data)
    assert len(samples) / RATE_HZ == pytest.approx(expected_s, abs=slack_s)
    assert np.abs(samples[int((expected_s - 1.0) * RATE_HZ) :]).max() > 0.05


MEDIA: dict[str, tuple[Callable[[], bytes], str]] = {
    "adts": (lambda: make.ffmpeg(wav(B_S), ".aac", "-c:a", "aac"), "AAC"),
    "adts-id3": (lambda: make.id3(bytes(99)) + MEDIA["adts"][0](), "AAC"),
    "m4a": (lambda: make.ffmpeg(wav(B_S), ".m4a", "-c:a", "aac"), "AAC"),
    "m4a-fast": (
        lambda: make.ffmpeg(wav(B_S), ".m4a", "-c:a", "aac", "-movflags", "+faststart"),
        "AAC",
    ),
    "fragmented": (
        lambda: make.ffmpeg(wav(B_S), ".mp4", "-movflags", "frag_keyframe+empty_moov"),
        "MP4",
    ),
    "3gp": (lambda: make.ffmpeg(wav(B_S), ".3gp", "-c:a", "aac"), "3GP"),
    "alac": (lambda: make.ffmpeg(wav(B_S), ".m4a", "-c:a", "alac"), "ALAC"),
    "caf": (lambda: make.ffmpeg(wav(B_S), ".caf", "-c:a", "alac"), "ALAC"),
    "caf-pcm": (lambda: make.ffmpeg(wav(B_S), ".caf", "-c:a", "pcm_s16be"), "CAF"),
    "aiff": (lambda: make.ffmpeg(wav(B_S), ".aiff"), "AIFF"),
    "wma": (lambda: make.ffmpeg(wav(B_S), ".wma", "-c:a", "wmav2"), "WMA"),
    "webm": (lambda: make.ffmpeg(wav(B_S), ".webm", "-c:a", "libopus"), "WebM"),
    "webm-live": (lambda: make.ffmpeg(wav(B_S), ".webm", "-live", "1"), "WebM"),
    "speex": (lambda: make.ffmpeg(wav(B_S), ".spx", "-c:a", "libspeex"), "Speex"),
    "ogg-flac": (lambda: make.ffmpeg(wav(B_S), ".oga", "-c:a", "flac"), "FLAC"),
    "amr": (lambda: make.made("sox", ("IN", "-r", "8000", "OUT"), ".amr-nb", wav(B_S)), "AMR"),
    "wav-mp3": (
        lambda: make.ffmpeg(wav(B_S), ".wav", "-c:a", "libmp3lame"),
        "WAV that holds MP3",
    ),
    "au": (lambda: make.ffmpeg(wav(B_S), ".au"), "AU"),
}
# Frames of 1024 samples at 16 kHz or less, in front and behind.
FRAME_S = 2 * 1024 / 8_000


@pytest.mark.parametrize("name", MEDIA)
def test_media_are_read_to_their_end(name: str) -> None:
    pytest.importorskip("av")
    check(MEDIA[name][0](), B_S, FRAME_S)


@pytest.mark.parametrize("name", MEDIA)
def test_media_without_the_extra_are_named(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / "my answer.bin"
    path.write_bytes(MEDIA[name][0]())
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert MEDIA[name][1] in caught.value.message
    assert "asa-engine[media]" in caught.value.hint
    assert f"ffmpeg -i '{path}' answer.wav" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["adts", "m4a", "m4a-fast", "alac", "webm", "speex", "amr", "aiff"]
)
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_media_cut_short_are_refused(name: str, share: float) -> None:
    pytest.importorskip("av")
    data = MEDIA[name][0]()
    with pytest.raises(AudioError, match=r"cut short|damaged"):
        read_audio(data[: int(share * len(data))])


@pytest.mark.parametrize("name", ["adts", "webm", "speex"])
def test_media_that_were_joined(name: str) -> None:
    pytest.importorskip("av")
    check(MEDIA[name][0]() * 2, 2 * B_S, 2 * FRAME_S)


def test_mp4_files_in_a_row_are_refused() -> None:
    pytest.importorskip("av")
    with pytest.raises(AudioError, match="in a row"):
        read_audio(MEDIA["m4a"][0]() * 2)
