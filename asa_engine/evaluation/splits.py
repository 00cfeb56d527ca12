"""Which speakers are held out: by manifests of their own, by `split`, or by a stated rule.

Speakers are held out, never recordings. Where a manifest of dev speakers is given, it is theirs.
Where lines have a `split`, `train` and `dev` are those sides, and all else, such as `test`, is on
neither. Where nothing says it, speakers that are all numbers are dev if theirs is divisible by
five; of other names, those whose SHA-256, as a number, is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from asa_engine.errors import ManifestError
from asa_engine.evaluation.manifest import Utterance, read_manifest
from asa_engine.evaluation.sessions import Session, read_sessions

__all__ = [
    "RULES",
    "Sides",
    "dev_split",
    "read_session_sides",
    "read_sides",
    "session_split",
]

DEV_SPEAKER_DIVISOR: Final = 5
RULES: Final = {
    "manifests": "dev speakers have a manifest of their own",
    "split": "dev speakers are those of the split 'dev'",
    "numbers": f"dev speakers are those whose number is divisible by {DEV_SPEAKER_DIVISOR}",
    "folds": "every speaker is held out in turn",
    "hash": f"dev speakers are those whose SHA-256 is divisible by {DEV_SPEAKER_DIVISOR}",
}

_T = TypeVar("_T", Utterance, Session)


@dataclass(frozen=True, slots=True)
class Sides:
    """A corpus, speakers apart.

    Attributes:
        train: Recordings to train on.
        dev: Recordings of held-out speakers.
        rule: Why they are held out: a key of `RULES`.
    """

    train: list[Utterance]
    dev: list[Utterance]
    rule: str

    @property
    def all(self) -> list[Utterance]:
        """Both sides' recordings, train first."""
        return [*self.train, *self.dev]


def dev_split(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Split recordings into (train, dev) as the module says; either may be empty.

    Raises:
        ManifestError: A recording has no speaker, or a speaker is on both sides.
    """
    train, dev, _ = _split(utterances)
    return train, dev


def session_split(sessions: Sequence[Session]) -> tuple[list[Session], list[Session]]:
    """Split sessions into (train, dev) likewise; one without a `speaker` is of its name's."""
    train, dev, _ = _split(sessions)
    return train, dev


def read_sides(manifest: Path, dev: Path | None = None) -> Sides:
    """Read a corpus to train on.

    Args:
        manifest: JSON Lines file; or a folder with `train.jsonl` and, if the dev speakers have one
            of their own, `dev.jsonl`.
        dev: Their manifest, if any.

    Raises:
        ManifestError: A line cannot be used, a side is empty, or a speaker or a recording is on
            both sides.
    """
    path, own = _in_folder(manifest, dev, "train.jsonl", "dev.jsonl")
    utterances = read_manifest(path)
    held = None if own is None else read_manifest(own)
    if held is not None:
        known = {u.id for u in utterances}
        if twice := [u.id for u in held if u.id in known]:
            raise ManifestError(f"the recording {twice[0]!r} is in {path} and in {own}")
    train, side, rule = _split(utterances, held)
    _refuse_empty(path, train, side, rule)
    return Sides(train, side, rule)


def read_session_sides(
    manifest: Path, dev: Path | None = None
) -> tuple[list[Session], list[Session]]:
    """Read sessions to train on, (train, dev), likewise; a folder's are `train-sessions.jsonl`.

    Raises:
        ManifestError: As `read_sides` does.
    """
    path, own = _in_folder(manifest, dev, "train-sessions.jsonl", "dev-sessions.jsonl")
    train, side, rule = _split(read_sessions(path), None if own is None else read_sessions(own))
    _refuse_empty(path, train, side, rule)
    return train, side


def _in_folder(path: Path, dev: Path | None, train: str, held: str) -> tuple[Path, Path | None]:
    if not path.is_dir():
        return path, dev
    beside = path / held
    return path / train, dev or (beside if beside.is_file() else None)


def _refuse_empty(path: Path, train: Sequence[_T], dev: Sequence[_T], rule: str) -> None:
    if not train or not dev:
        raise ManifestError(
            f"{path} has no {'dev' if train else 'train'} speaker",
            hint=f"{RULES[rule]}; name a dev manifest, or give every line a split",
        )


def _split(items: Sequence[_T], held: Sequence[_T] | None = None) -> tuple[list[_T], list[_T], str]:
    """Return train side, dev side and the rule."""
    if held is not None:
        train = [item for item in items if item.split not in ("dev", "test")]
        dev, rule = list(held), "manifests"
    elif any(item.split == "dev" for item in items):
        if bare := [item for item in items if not item.split]:
            raise ManifestError(
                f"{_name(bare[0])!r} has no split, others have one", hint="give every line a split"
            )
        train, dev = ([i for i in items if i.split == side] for side in ("train", "dev"))
        rule = "split"
    else:
        rest = [item for item in items if item.split != "test"]
        if bare := [item for item in rest if not _speaker(item)]:
            raise ManifestError(
                f"{_name(bare[0])!r} has no speaker, so that none can be held out",
                hint="name the speakers, give every line a split, or name a dev manifest",
            )
        numbers = all(_speaker(item).isdecimal() for item in rest)
        is_dev, rule = (_number, "numbers") if numbers else (_hash, "hash")
        train, dev = _apart(rest, is_dev)
    if both := {_speaker(item) for item in train} & {_speaker(item) for item in dev} - {""}:
        raise ManifestError(
            f"the speaker {min(both)!r} is on the train and on the dev side"
            + (f", as {len(both) - 1} more are" if len(both) > 1 else ""),
            hint="hold speakers out, never recordings: figures on dev would flatter",
        )
    return train, dev, rule


def _apart(items: Iterable[_T], is_dev: Callable[[str], bool]) -> tuple[list[_T], list[_T]]:
    sides: tuple[list[_T], list[_T]] = ([], [])
    for item in items:
        sides[is_dev(_speaker(item))].append(item)
    return sides


def _number(speaker: str) -> bool:
    return int(speaker) % DEV_SPEAKER_DIVISOR == 0


def _hash(speaker: str) -> bool:
    digest = hashlib.sha256(speaker.encode()).digest()
    return int.from_bytes(digest, "big") % DEV_SPEAKER_DIVISOR == 0


def _speaker(item: Utterance | Session) -> str:
    return item.speaker if isinstance(item, Utterance) else item.speaker or item.name


def _name(item: Utterance | Session) -> str:
    return item.id if isinstance(item, Utterance) else item.name
