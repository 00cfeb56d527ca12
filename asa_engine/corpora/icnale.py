"""ICNALE Spoken Monologue: learners' and natives' monologues, a CEFR band in every file's name.

Known: five classes, A2_0, B1_1, B1_2, B2_0 and native speakers; 4,332 samples.

Assumed: names of the form `SM_<country>_<topic and trial>_<number>_<band>`, such as
`SM_JPN_PTJ1_001_B1_2.mp3`, with band `XX_<n>` for native speakers, anywhere below the folder;
transcripts, where there are any, as `.txt` files of the same name. `split` picks a topic or a
country, e.g. `PTJ` or `JPN`. The score `band` counts the classes from 1 to 5.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from asa_engine.corpora.contents import AUDIO_SUFFIXES, CorpusContents, CorpusRecording, read_lines

__all__ = ["BANDS", "read"]

BANDS: Final = ("A2_0", "B1_1", "B1_2", "B2_0", "native")
_NAME: Final = re.compile(
    r"SM_(?P<country>[A-Z]{3})_(?P<topic>[A-Z]{3})(?P<trial>\d)_(?P<number>\d+)"
    r"_(?P<band>A2_0|B1_1|B1_2|B2_0|XX_\d)"
)


def read(folder: Path, split: str) -> CorpusContents:
    """Read recordings and their bands."""
    recordings, left_out, seen = [], [], set()
    for audio in sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES):
        match = _NAME.fullmatch(audio.stem)
        if match is None:
            left_out.append(f"{audio.name}: the name holds no band")
            continue
        if split and split not in (match["country"], match["topic"]):
            continue
        if audio.stem in seen:
            left_out.append(f"{audio}: there is another recording of this name")
            continue
        seen.add(audio.stem)
        band = "native" if match["band"].startswith("XX") else match["band"]
        fields: dict[str, Any] = {
            "scores": {"band": float(1 + BANDS.index(band))},
            "speaker": f"{match['country']}-{match['number']}",
            "level": band,
            "prompt": match["topic"],
        }
        text = audio.with_suffix(".txt")
        if text.is_file():
            fields["transcript"] = " ".join(line.strip() for _, line in read_lines(text))
        recordings.append(CorpusRecording(audio.stem, audio, fields))
    return CorpusContents(recordings, left_out=left_out)
