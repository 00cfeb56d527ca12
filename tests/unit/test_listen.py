"""The microphone on the command line, with a device that plays what a test gives it."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
import soxr
from audio_samples import RATE_HZ, silence, speech
from numpy.typing import NDArray

from asa_engine.assessment import schema
from asa_engine.audio import microphone
from asa_engine.audio.ending import SpeechEnd
from asa_engine.cli.main import main

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "audio" / "demo.flac"
ODD_SIZES = (1, 7, 160, 1601, 333, 4096, 13)
QUIET_AFTER = 20.0  # of a device that goes on when its recording is over

Run = Callable[..., tuple[int, str, str]]


class PortAudioError(Exception):
    """As sounddevice's."""


class Device(ModuleType):
    """A module `sounddevice` with one microphone, "USB Mic", which plays a recording.

    Attributes:
        samples: int16 [n].
        overflows: Numbers of the blocks before which samples were lost.
        then: What happens behind the last block: "nothing", or "unplugged" (the stream ends by
            itself), or "ctrl-c".
        refuses: Why it cannot be opened.
    """

    PortAudioError = PortAudioError

    def __init__(self, samples: NDArray[np.int16], rate_hz: int = RATE_HZ) -> None:
        super().__init__("sounddevice")
        self.samples, self.rate_hz = samples, rate_hz
        self.overflows: tuple[int, ...] = ()
        self.then = "nothing"
        self.refuses = ""
        self.is_there = True
        self.opened: dict[str, Any] = {}
        self.is_open = False

    def query_devices(self, device: int | str | None, kind: str) -> dict[str, Any]:
        """Return the one microphone, found as sounddevice finds it."""
        assert kind == "input"
        if not self.is_there or (isinstance(device, int) and device != 0):
            raise PortAudioError(f"Error querying device {-1 if device is None else device}")
        if isinstance(device, str) and device.lower() not in "usb mic":
            raise ValueError(f"No input device matching {device!r}")
        return {"name": "USB Mic", "default_samplerate": float(self.rate_hz)}

    def InputStream(self, **options: Any) -> Stream:
        """Open the microphone."""
        if self.refuses:
            raise PortAudioError(self.refuses)
        self.opened = options
        return Stream(self, options["callback"], options["finished_callback"])


class Stream:
    """Plays in a thread of its own, as PortAudio does."""

    def __init__(
        self, device: Device, callback: Callable[..., None], finished: Callable[[], None]
    ) -> None:
        self._device, self._callback, self._finished = device, callback, finished
        self._thread = threading.Thread(target=self._play)

    def start(self) -> None:
        """Begin."""
        self._device.is_open = True
        self._thread.start()

    def close(self) -> None:
        """Wait for the last block."""
        self._device.is_open = False
        self._thread.join()
        self._finished()

    def _play(self) -> None:
        at, memory = 0, np.zeros((max(ODD_SIZES), 1), np.int16)
        for number, size in enumerate(itertools.cycle(ODD_SIZES)):
            block = self._device.samples[at : at + size, None]
            if not len(block):
                break
            at += len(block)
            memory[: len(block)] = block  # PortAudio's memory is used again
            status = SimpleNamespace(input_overflow=number in self._device.overflows)
            self._callback(memory[: len(block)], len(block), None, status)
        if self._device.then == "unplugged":
            self._finished()
        elif self._device.then == "ctrl-c":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def pcm(*parts: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return parts one after another, as a sound card gives them."""
    return np.round(np.concatenate(parts) * 32767 * 0.7).astype(np.int16)


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Device]:
    def plugged(samples: NDArray[np.int16], rate_hz: int = RATE_HZ) -> Device:
        device = Device(samples, rate_hz)
        monkeypatch.setitem(sys.modules, "sounddevice", device)
        return device

    return plugged


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fake_bundle: Path,
    tmp_path: Path,
) -> Iterator[Run]:
    """Run a command with the fake bundle, in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = signal.getsignal(signal.SIGINT)

    def called(*args: object) -> tuple[int, str, str]:
        engine = ("--bundle", fake_bundle, "--backend", "fake") if "--text" not in args else ()
        code = main([str(arg) for arg in (*args, *engine)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield called
    assert signal.getsignal(signal.SIGINT) is before


def told(out: str) -> dict[str, Any]:
    """Return a result of --json, without how long it took and where the sound came from."""
    result: dict[str, Any] = json.loads(out)
    jsonschema.validate(result, schema())
    return {k: v for k, v in result.items() if k not in ("timing", "device", "audio", "lost_s")}


def error_of(err: str) -> str:
    """Return the one line behind those that were shown while listening."""
    lines = [line for line in err.splitlines() if line.startswith("asa-engine: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 44_100])
def test_the_bits_are_those_of_the_same_file(
    run: Run, plug_in: Callable[..., Device], rate_hz: int
) -> None:
    samples = pcm(soxr.resample(speech(2.5, seed=1), RATE_HZ, rate_hz))
    soundfile.write("answer.wav", samples, rate_hz)
    device = plug_in(samples, rate_hz)
    code, out, _ = run("listen", "--json", "--seconds", len(samples) / rate_hz)
    assert code == 0
    assert (json.loads(out)["device"], json.loads(out)["audio"]) == ("USB Mic", "USB Mic")
    assert told(out)["scores"]
    assert told(out) == told(run("assess", "answer.wav", "--json")[1])
    assert (device.opened["channels"], device.opened["dtype"]) == (1, "int16")
    assert device.opened["samplerate"] == rate_hz
    assert not device.is_open


def test_a_reading_is_judged_like_its_file(run: Run, plug_in: Callable[..., Device]) -> None:
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    plug_in(samples, rate_hz)
    args = ("--text", "Last summer I went to the mountains.", "--json")
    _, out, _ = run("listen", *args, "--seconds", len(samples) / rate_hz)
    assert told(out)["words"]
    assert told(out) == told(run("assess", DEMO, *args)[1])


def test_it_ends_by_itself_after_the_speech(run: Run, plug_in: Callable[..., Device]) -> None:
    spoken, pause = speech(2.5, seed=1), silence(1.5)
    plug_in(pcm(silence(4.0), spoken, pause, spoken, silence(QUIET_AFTER)))
    code, out, _ = run("listen", "--json", "--quiet", 2, "-o", "kept.wav")
    assert code == 0
    kept_s = soundfile.info("kept.wav").duration
    # The quiet that was asked for, what the detector is late, the tail of the gate.
    assert 4.0 + 2.5 + 1.5 + 2.5 + 2.0 < kept_s < 4.0 + 2.5 + 1.5 + 2.5 + 2.0 + 1.5
    assert told(out) == told(run("assess", "kept.wav", "--json")[1])


def test_nothing_is_kept_unasked(run: Run, plug_in: Callable[..., Device]) -> None:
    plug_in(pcm(speech(2.5, seed=1), silence(QUIET_AFTER)))
    code, out, err = run("listen")
    assert code == 0
    assert out.startswith("USB Mic  (")
    assert "fluency" in out
    assert "listening to USB Mic" in err
    assert re.search(r"^   1\.\d s  fluency \d\.\d  total", err, re.MULTILINE)  # as --live does
    assert os.listdir() == []


def test_ctrl_c_scores_what_was_said(run: Run, plug_in: Callable[..., Device]) -> None:
    samples = pcm(speech(2.5, seed=1))
    soundfile.write("answer.wav", samples, RATE_HZ)
    plug_in(samples).then = "ctrl-c"
    code, out, _ = run("listen", "--json")
    assert code == 0
    assert told(out) == told(run("assess", "answer.wav", "--json")[1])


def test_silence_ends_at_the_limit_and_is_not_scored(
    run: Run, plug_in: Callable[..., Device]
) -> None:
    plug_in(pcm(silence(QUIET_AFTER)))
    code, out, _ = run("listen", "--json", "--seconds", 4.5)
    result = json.loads(out)
    assert code == 3
    assert result["validity"]["reasons"] == ["silence"]
    assert result["timing"]["audio_s"] == 4.5


def test_lost_samples_are_told(run: Run, plug_in: Callable[..., Device]) -> None:
    samples = pcm(speech(2.5, seed=1))
    device = plug_in(samples)
    device.overflows = (0, 3)  # before the first block nothing can be lost
    limit = ("--seconds", len(samples) / RATE_HZ)
    code, out, err = run("listen", "--json", *limit)
    assert code == 0
    assert json.loads(out)["lost_s"] == [round(sum(ODD_SIZES[:3]) / RATE_HZ, 3)]
    assert "samples were lost, first at 0.0 s, times: 1" in error_of(err)
    device.overflows = ()
    _, out, err = run("listen", "--json", *limit)
    assert json.loads(out)["lost_s"] == []
    assert "lost" not in err


def test_a_microphone_that_is_pulled_out_is_one_line(
    run: Run, plug_in: Callable[..., Device]
) -> None:
    plug_in(pcm(speech(1.5, seed=1))).then = "unplugged"
    code, out, err = run("listen", "-o", "kept.wav")
    assert (code, out) == (3, "")
    assert "'USB Mic' stopped after 1.5 s" in error_of(err)
    assert soundfile.info("kept.wav").duration == 1.5  # it was asked for


def test_a_microphone_that_falls_silent_for_good_is_one_line(
    run: Run, plug_in: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microphone, "_PATIENCE_S", 0.3)
    plug_in(pcm(speech(1.5, seed=1)))
    code, out, err = run("listen", "--json")
    assert (code, json.loads(out)["error"]) == (3, "AudioError")
    assert "gives no sound for 0.3 s" in error_of(err)


def test_devices_that_cannot_be_used_are_one_line(run: Run, plug_in: Callable[..., Device]) -> None:
    device = plug_in(pcm(silence(1.0)))
    code, _, err = run("listen", "--device", "webcam")
    assert (code, "No input device matching 'webcam'" in error_of(err)) == (2, True)
    code, _, err = run("listen", "--device", "7")
    assert (code, "there is no device 7" in error_of(err)) == (3, True)
    device.refuses = "Error opening InputStream: Device unavailable [PaErrorCode -9985]"
    code, _, err = run("listen", "--device", "0")
    assert (code, "'USB Mic' cannot be opened: Error opening" in error_of(err)) == (3, True)
    device.is_there = False
    code, _, err = run("listen")
    assert (code, "there is no microphone" in error_of(err)) == (3, True)


def test_without_the_extra_it_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    code, _, err = run("listen")
    assert (code, "pip install 'asa-engine[mic]'" in error_of(err)) == (4, True)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("raise OSError('PortAudio library not found')", "apt-get install libportaudio2"),
        ("raise RuntimeError('Error initializing PortAudio')", "see that the sound system runs"),
    ],
)
def test_without_portaudio_it_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, said: str
) -> None:
    (tmp_path / "sounddevice.py").write_text(module)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    code, _, err = run("listen")
    assert (code, said in error_of(err)) == (4, True)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("-o", "answer.mp3"), "recordings are kept as WAV"),
        (("-o", "nowhere/answer.wav"), "cannot be written"),
        (("--seconds", "1e9"), "--seconds is at most 14400"),
        (("--prompt", "Say why."), "does not use --prompt"),
    ],
)
def test_what_would_fail_later_is_refused_before_anybody_speaks(
    run: Run, plug_in: Callable[..., Device], args: tuple[str, ...], said: str
) -> None:
    device = plug_in(pcm(speech(1.5, seed=1)))
    code, _, err = run("listen", *args)
    assert (code, said in error_of(err)) == (2, True)
    assert not device.opened


def test_the_end_of_speech_needs_speech() -> None:
    end = SpeechEnd(RATE_HZ)
    end.push(silence(3.0))
    assert end.quiet_s is None
    end.push(speech(2.0, seed=1))
    end.push(silence(1.0))
    assert end.quiet_s is not None
    quiet_s = end.quiet_s
    end.push(silence(1.0))
    assert end.quiet_s == pytest.approx(quiet_s + 1.0, abs=4 * 0.032)  # a block of the high-pass
    end.push(speech(1.0, seed=2))
    end.push(silence(0.7))
    assert end.quiet_s < 0.7
