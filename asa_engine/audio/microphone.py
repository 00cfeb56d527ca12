"""A microphone, by way of PortAudio and the sounddevice package: the extra [mic]."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.audio.quiet import quiet_c
from asa_engine.errors import AudioError, BackendError, UsageError

__all__ = ["Microphone"]

_BLOCKS_PER_S: Final = 10
_PATIENCE_S: Final = 3.0  # a device that is there gives a block every tenth of a second
_LIST: Final = "'python -m sounddevice' lists what is there"


class Microphone:
    """One channel of a device at its own rate; a context that records while it is open.

    Samples wait in memory until they are taken, so that a reader may be slow now and then.

    Args:
        device: Its number, or a part of its name; `None` for the system's default.
        most_s: Seconds after which it ends; no more than these are ever held.

    Attributes:
        name: The device's.
        sample_rate_hz: Rate of the samples.
        lost_s: Seconds into the recording after which the system dropped samples.

    Raises:
        BackendError: sounddevice or PortAudio is not installed.
        UsageError: No microphone, or more than one, is called so.
        AudioError: There is no microphone.
    """

    def __init__(self, device: str | None = None, *, most_s: float) -> None:
        self._sounddevice = _sounddevice()
        self._device = int(device) if device is not None and device.isdecimal() else device
        try:
            found = self._sounddevice.query_devices(self._device, "input")
        except ValueError as error:
            raise UsageError(f"no microphone is meant by {device!r}: {error}", hint=_LIST) from None
        except self._sounddevice.PortAudioError as error:
            wanted = "no microphone" if device is None else f"no device {device}"
            raise AudioError(f"there is {wanted}: {error}", hint=_LIST) from None
        self.name = str(found["name"])
        self.sample_rate_hz = round(found["default_samplerate"])
        self.lost_s: list[float] = []
        self._most_frames = max(1, round(most_s * self.sample_rate_hz))
        self._frames = 0
        self._is_stopped = False
        # Its `put` may interrupt a `get` of the same thread, as a signal's handler does.
        self._waiting: queue.SimpleQueue[NDArray[np.int16] | None] = queue.SimpleQueue()
        self._stream: Any = None

    def __enter__(self) -> Self:
        """Start to record.

        Raises:
            AudioError: The device cannot be opened: it is in use, or not permitted.
        """
        try:
            with quiet_c():
                self._stream = self._sounddevice.InputStream(
                    samplerate=self.sample_rate_hz,
                    blocksize=self.sample_rate_hz // _BLOCKS_PER_S,
                    device=self._device,
                    channels=1,
                    dtype="int16",
                    callback=self._take,
                    finished_callback=self._end,
                )
                self._stream.start()
        except self._sounddevice.PortAudioError as error:
            self.__exit__()
            raise AudioError(
                f"the microphone {self.name!r} cannot be opened: {error}",
                hint="see that no other program holds it and that this one is permitted to record; "
                + _LIST,
            ) from None
        return self

    def __exit__(self, *failure: object) -> None:
        """Let go of the device."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def blocks(self) -> Iterator[NDArray[np.int16]]:
        """Yield what is recorded, int16 [n] each, for `most_s` or until `stop` is called.

        Raises:
            AudioError: The device ended by itself, or gives nothing any more.
        """
        given = 0
        while given < self._most_frames:
            try:
                block = self._waiting.get(timeout=_PATIENCE_S)
            except queue.Empty:
                if self._is_stopped:
                    return
                raise self._gone(given, f"gives no sound for {_PATIENCE_S:g} s") from None
            if block is None:
                if self._is_stopped:
                    return
                raise self._gone(given, "stopped")
            given += len(block)
            yield block

    def stop(self) -> None:
        """End `blocks` behind what was recorded so far; may be called by a signal's handler."""
        self._is_stopped = True
        self._waiting.put(None)

    def _take(self, samples: NDArray[np.int16], frames: int, time: Any, status: Any) -> None:
        """Take a block, in PortAudio's thread; its memory is PortAudio's."""
        block = samples[: self._most_frames - self._frames, 0].copy()
        if not block.size:
            return
        if status.input_overflow and self._frames:  # what is lost before the first block is none
            self.lost_s.append(self._frames / self.sample_rate_hz)
        self._frames += block.size
        self._waiting.put(block)

    def _end(self) -> None:
        self._waiting.put(None)

    def _gone(self, given: int, what: str) -> AudioError:
        return AudioError(
            f"the microphone {self.name!r} {what} after {given / self.sample_rate_hz:.1f} s",
            hint="see that it is plugged in, and speak again",
        )


def _sounddevice() -> Any:
    try:
        with quiet_c():  # ALSA names every device that is not there
            import sounddevice
    except ImportError:
        raise BackendError(
            "sounddevice is not installed", hint="pip install 'asa-engine[mic]'"
        ) from None
    except OSError as error:
        raise BackendError(
            f"PortAudio cannot be loaded: {error}", hint="Debian: apt-get install libportaudio2"
        ) from None
    except Exception as error:  # its own PortAudioError, out of a module that is not there then
        raise BackendError(
            f"PortAudio cannot start: {error}", hint="see that the sound system runs"
        ) from None
    return sounddevice
