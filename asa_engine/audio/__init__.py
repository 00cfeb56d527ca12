"""Sound in: decode, mix to mono, resample to 16 kHz, in bounded memory.

A file and a live stream take the same way: chunks at the source's rate go through one
`ChunkConverter`, so a score cannot depend on how the sound arrived.

    with open_audio("answer.flac") as audio:
        converter = audio.converter()
        for block in audio.blocks():
            use(converter.push(block))
        use(converter.close())
"""

from asa_engine.audio.convert import (
    MAX_CHANNELS,
    MAX_DURATION_S,
    MAX_SAMPLE_RATE_HZ,
    MIN_SAMPLE_RATE_HZ,
    SAMPLE_RATE_HZ,
    AudioChunk,
    Channels,
    ChunkConverter,
    InputLevels,
)
from asa_engine.audio.decode import (
    AudioReader,
    AudioSource,
    open_audio,
    read_audio,
    read_blocks,
)

__all__ = [
    "MAX_CHANNELS",
    "MAX_DURATION_S",
    "MAX_SAMPLE_RATE_HZ",
    "MIN_SAMPLE_RATE_HZ",
    "SAMPLE_RATE_HZ",
    "AudioChunk",
    "AudioReader",
    "AudioSource",
    "Channels",
    "ChunkConverter",
    "InputLevels",
    "open_audio",
    "read_audio",
    "read_blocks",
]
