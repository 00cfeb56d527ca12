"""Write the corpus of the audio fuzzer anew: a short synthetic file of every kind that is read.

python tests/fuzz/make_corpus.py       needs ffmpeg, sox, lame and opusenc
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

import container_samples as make  # noqa: E402
from audio_samples import encoded, speech  # noqa: E402

CORPUS = Path(__file__).parent / "corpus"
SECONDS, RATE_HZ = 0.5, 8_000


def main() -> None:
    """Write the files."""
    samples = speech(2 * SECONDS)[: int(SECONDS * RATE_HZ)]
    wav = encoded(samples, "WAV", "PCM_16", RATE_HZ)
    wide = encoded(np.repeat(samples, 2), "WAV", "PCM_16", 2 * RATE_HZ)
    stereo = encoded(np.column_stack([samples, -samples]), "WAV", "PCM_16", RATE_HZ)
    files = {f"pcm-{name.lower()}.wav": encoded(samples, "WAV", name, RATE_HZ) for name in WAVS}
    files |= {f"as-{name}": make.ffmpeg(wav, Path(name).suffix, *how) for name, how in MADE.items()}
    files["extensible.wav"] = encoded(samples, "WAVEX", "PCM_24", RATE_HZ)
    files["long.rf64.wav"] = encoded(samples, "RF64", "PCM_16", RATE_HZ)
    files["antiphase.wav"] = stereo
    files["piped.wav"] = make.wave(wide[44:], length=0x80000000, riff=0x80000024)
    files["vbr.mp3"] = make.id3(make.text_frame(b"TIT2", b"Info")) + make.vbr(wide)
    files["bare.mp3"] = make.bare(wide) + b"TAG" + bytes(125)
    files["joined.mp3"] = make.mp3(wide) + make.id3(bytes(30)) + make.bare(wide)
    files["opus.opus"] = make.opus(wide)
    files["chained.opus"] = make.opus(wide) * 2
    files["joined.flac"] = make.flac(wav) * 2
    files["phone.amr"] = make.made("sox", ("IN", "OUT"), ".amr-nb", wav)
    CORPUS.mkdir(exist_ok=True)
    for name, data in files.items():
        (CORPUS / name).write_bytes(data)
        print(f"{len(data):7d}  {name}")


WAVS = ("PCM_U8", "PCM_24", "FLOAT", "ALAW", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")
MADE: dict[str, tuple[str, ...]] = {
    "flac.flac": (),
    "vorbis.ogg": ("-c:a", "libvorbis"),
    "speex.spx": ("-c:a", "libspeex"),
    "flac.oga": ("-c:a", "flac"),
    "adts.aac": ("-c:a", "aac"),
    "aac.m4a": ("-c:a", "aac"),
    "alac.m4a": ("-c:a", "alac"),
    "pieces.mp4": ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"),
    "aac.3gp": ("-c:a", "aac"),
    "alac.caf": ("-c:a", "alac"),
    "pcm.aiff": (),
    "pcm.au": (),
    "pcm.w64": (),
    "opus.webm": ("-c:a", "libopus"),
    "live.webm": ("-c:a", "libopus", "-live", "1"),
    "pcm.mka": ("-c:a", "pcm_s16le"),
    "wma.wma": ("-c:a", "wmav2"),
    "wavpack.wv": (),
    "tta.tta": (),
    "aac.ts": ("-c:a", "aac"),
    "mp3.wav": ("-c:a", "libmp3lame"),
    "layer2.mp2": ("-ar", "16000"),
}

if __name__ == "__main__":
    main()
