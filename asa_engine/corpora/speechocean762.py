"""speechocean762 as published: Kaldi tables a split, all scores in one JSON file.

Known: `<split>/wav.scp` (id, path), `<split>/utt2spk`, `<split>/spk2age`, `<split>/spk2gender`,
`resource/scores.json` (id -> `text`, `accuracy`, `completeness`, `fluency`, `prosodic`, `total`,
`words` with `phones` and `phones-accuracy`); `resource/scores-detail.json` (the same with every
expert's own scores in lists); splits `train` and `test`; WAV files under `WAVE`.

Assumed: paths in `wav.scp` are relative to the corpus's folder; without a split, both are read.
A copy without `scores-detail.json` gives no `raters`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from asa_engine.corpora.contents import CorpusContents, CorpusRecording, number, read_lines
from asa_engine.errors import ManifestError

__all__ = ["read"]

SCORES: Final = ("accuracy", "fluency", "prosodic", "total")
_MAX_BYTES: Final = 256 * 2**20


def read(folder: Path, split: str) -> CorpusContents:
    """Read recordings with the scores of utterances, words and phones."""
    scored = _read_scores(folder / "resource" / "scores.json")
    details = folder / "resource" / "scores-detail.json"
    detailed = _read_scores(details) if details.is_file() else {}
    recordings, left_out = [], []
    for name in [split] if split else ["train", "test"]:
        speakers = _table(folder / name / "utt2spk")
        ages = _table(folder / name / "spk2age", needed=False)
        genders = _table(folder / name / "spk2gender", needed=False)
        for key, path in _table(folder / name / "wav.scp").items():
            audio = folder / path
            entry = scored.get(key)
            if entry is None or not audio.is_file():
                left_out.append(f"{key}: no {'recording' if entry else 'score'}")
                continue
            where = f"{folder / 'resource' / 'scores.json'}, {key}"
            speaker = speakers.get(key, "")
            fields: dict[str, Any] = {"scores": _scores(entry, SCORES, where), "speaker": speaker}
            if speaker in ages:
                fields["age"] = number(ages[speaker], where)
            fields |= {"gender": genders.get(speaker, ""), "text": str(entry.get("text", ""))}
            if key in detailed:
                fields["raters"] = _raters(detailed[key], f"{details}, {key}")
            fields |= {"split": name, "words": _words(entry, where)}
            recordings.append(CorpusRecording(key, audio, fields))
    return CorpusContents(recordings, left_out=left_out)


def _read_scores(path: Path) -> dict[str, dict[str, Any]]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ManifestError(f"{path} is larger than {_MAX_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise ManifestError(
            f"{path} cannot be read: {failure.strerror}", hint="give the corpus's top folder"
        ) from None
    except (ValueError, RecursionError):
        raise ManifestError(f"{path} is not valid JSON") from None
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise ManifestError(f"{path} does not map ids to scores")
    return value


def _table(path: Path, *, needed: bool = True) -> dict[str, str]:
    if not needed and not path.is_file():
        return {}
    rows = {}
    for where, line in read_lines(path):
        key, _, value = line.strip().partition("\t" if "\t" in line else " ")
        if not value.strip():
            raise ManifestError(f"{where}: not two fields")
        rows[key] = value.strip()
    return rows


def _scores(entry: dict[str, Any], names: tuple[str, ...], where: str) -> dict[str, float]:
    return {name: number(entry.get(name), f"{where}, {name}") for name in names}


def _raters(entry: dict[str, Any], where: str) -> dict[str, list[float]]:
    """Return each expert's own scores."""
    raters = {}
    for name in SCORES:
        said = entry.get(name)
        if not isinstance(said, list) or not said:
            raise ManifestError(f"{where}: {name} is not a list of the experts' scores")
        raters[name] = [number(score, f"{where}, {name}") for score in said]
    return raters


def _words(entry: dict[str, Any], where: str) -> list[dict[str, Any]]:
    words = []
    try:
        for word in entry.get("words", []):
            phones = zip(word["phones"], word["phones-accuracy"], strict=True)
            words.append(
                {
                    "text": str(word["text"]),
                    **_scores(word, ("accuracy", "stress", "total"), where),
                    "phones": [
                        {"phone": str(phone), "accuracy": number(score, where)}
                        for phone, score in phones
                    ],
                }
            )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ManifestError(f"{where}: words are not as published") from None
    return words
