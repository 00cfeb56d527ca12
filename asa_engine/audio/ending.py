"""When a learner has finished: how long nobody has spoken since somebody did."""

from __future__ import annotations

from asa_engine.audio.convert import AudioChunk, ChunkConverter
from asa_engine.audio.front import FRAME_S, SpeechFront
from asa_engine.audio.validity import ValidityMonitor

__all__ = ["SpeechEnd"]


class SpeechEnd:
    """Follows speech by the detector and gate that graders hear through, to its end.

    A stream's own detector may stop once speech is certain; this one goes on. Frames are known
    0.6 to 0.7 s late (`SpeechFront`), so that much more time has passed than `quiet_s` says.

    Args:
        sample_rate_hz: Rate of the chunks.

    Raises:
        BackendError: The speech detector's weights are missing, or not those that are known.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self._converter = ChunkConverter(sample_rate_hz)
        self._monitor = ValidityMonitor()
        self._front = SpeechFront(self._hear, level=False)
        self._quiet_frames = 0

    @property
    def quiet_s(self) -> float | None:
        """Seconds without speech since the last of it; `None` until somebody speaks for sure."""
        return self._quiet_frames * FRAME_S if self._monitor.is_certain else None

    def push(self, chunk: AudioChunk) -> None:
        """Take the next chunk.

        Raises:
            AudioError: Wrong dtype or shape, NaN or infinity.
        """
        self._front.push(self._converter.push(chunk))

    def _hear(self, speech_frames: int) -> None:
        self._monitor.hear(speech_frames)
        self._quiet_frames = 0 if speech_frames else self._quiet_frames + 1
