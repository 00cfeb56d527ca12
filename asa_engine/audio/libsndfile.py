"""WAV, FLAC, Ogg and MP3 by libsndfile, given what was found to be sound, to its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import soundfile
from numpy.typing import NDArray

from asa_engine.audio.containers.kinds import Kind
from asa_engine.audio.containers.source import Part, Source, View
from asa_engine.audio.quiet import quiet_c
from asa_engine.errors import AudioError

__all__ = ["block_frames", "libsndfile_chunks"]

BLOCK_S: Final = 0.5
MAX_BLOCK_SAMPLES: Final = 2**19

# Libraries read ahead; more than this at the end was never asked for.
_UNREAD_BYTES: Final = 16 * 1024
_HINT: Final = "copy or record it again"


class _ForwardOnlyFile(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that is only read forward.

    soundfile seeks after every read of a seekable file, which fails on FLAC of undeclared length.
    """

    def seekable(self) -> bool:
        return False


def block_frames(sample_rate_hz: int, channels: int) -> int:
    """Return how many sample frames are decoded at once."""
    return max(1, min(int(BLOCK_S * sample_rate_hz), MAX_BLOCK_SAMPLES // max(channels, 1)))


def libsndfile_chunks(
    source: Source, kind: Kind, part: Part
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (sample rate in Hz, [n, channels]) of a part, in order.

    Raises:
        AudioError: It is damaged or cut short, or cannot be read to its end.
    """
    view = View(source, part.pieces)
    decoded_s = 0.0
    try:
        with quiet_c():
            opened = _ForwardOnlyFile(view, closefd=False)
        with opened as file:
            for chunk in _chunks(file, part.declared):
                decoded_s += len(chunk) / file.samplerate
                yield file.samplerate, chunk
            promised_s = max(part.declared / file.samplerate, part.at_least_s)
    except soundfile.LibsndfileError as error:
        view.check()
        how = f"damaged, or not the {kind.name} it begins as"
        if decoded_s:
            how = f"damaged or cut short after {decoded_s:.6g} s"
        raise AudioError(f"{source.name}: {how}: {error.error_string}", hint=_HINT) from None
    view.check()
    unread = view.size - view.furthest
    if decoded_s < promised_s * (1 - 1e-9):
        raise AudioError(
            f"{source.name}: cut short: its header promises {promised_s:.6g} s of sound, "
            f"{decoded_s:.6g} s could be decoded",
            hint=_HINT,
        )
    if unread > _UNREAD_BYTES and not part.declared:  # behind a declared end no sound was found
        raise AudioError(
            f"{source.name}: damaged: the decoder stopped {unread} bytes before its end", hint=_HINT
        )


def _chunks(file: soundfile.SoundFile, declared: int) -> Iterator[NDArray[np.float32]]:
    """Yield blocks to the declared end, and what there is behind it.

    libsndfile drops what it decoded in a read that fails, so no read passes the declared end;
    where the first one behind it fails, what is there is no sound.
    """
    step, decoded = block_frames(file.samplerate, file.channels), 0
    while True:
        left = declared - decoded
        try:
            with quiet_c():
                chunk = file.read(min(step, left) if left > 0 else step, "float32", always_2d=True)
        except soundfile.LibsndfileError:
            if left or not declared:
                raise
            return
        if not len(chunk):
            return
        decoded += len(chunk)
        yield chunk
