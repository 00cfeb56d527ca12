"""Validation of configuration files: each check names the field and says what it must be."""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar

from asa_engine.errors import CheckpointError
from asa_engine.files import read_json

__all__ = [
    "MAX_SOURCE",
    "MOST_FRONT",
    "SAMPLE_RATE_HZ",
    "WHISPER_LIMITS",
    "GraderConfig",
    "Windowed",
    "ascending",
    "bad",
    "check_names",
    "integer",
    "number",
    "parse_shape",
]

SAMPLE_RATE_HZ: Final = 16_000
WHISPER_LIMITS: Final = {
    "n_mels": 512,
    "d_model": 8192,
    "layers": 128,
    "heads": 128,
    "ffn": 32_768,
    "positions": 6000,
    "stack": 64,
    "tokens": 200_000,
}
"""What a Whisper's shape may be at most: far above any real one, low enough that a hostile file
cannot ask for terabytes."""
MAX_SOURCE = 1000
"""Characters of a backbone's name, which may be a folder's path."""
MOST_FRONT = 2
"""The last of `WHOLE`, `LEVELLED` and `GATED` (`asa_engine.audio.intake`): what stands between the
samples and a grader. A configuration without `front` is of one that hears whole recordings."""

T = TypeVar("T")


def bad(name: str, value: object, wanted: str) -> CheckpointError:
    """Return the error that says what a field is and what it must be."""
    text = repr(value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return CheckpointError(
        f"config field {name} is {shown}; it must be {wanted}", hint="correct config.json"
    )


def check_names(cls: type, fields: Mapping[str, Any], where: str) -> None:
    """Raise `CheckpointError` for fields that the dataclass does not have."""
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise CheckpointError(
            f"{where} has unknown fields: {', '.join(map(repr, unknown[:5]))}",
            hint=f"known ones are {', '.join(sorted(known))}",
        )


class Windowed:
    """A configuration that cuts audio into windows.

    Attributes:
        window_s: Length of a window, s.
        min_window_s: Least length of a last one, s.
    """

    __slots__ = ()

    window_s: float
    min_window_s: float

    @property
    def window_samples(self) -> int:
        """Samples (16 kHz) in a window."""
        return round(self.window_s * SAMPLE_RATE_HZ)

    @property
    def min_window_samples(self) -> int:
        """Samples below which a last window is left out."""
        return round(self.min_window_s * SAMPLE_RATE_HZ)


class GraderConfig(ABC):
    """What the frozen configurations of all graders share: how they are stored and read back.

    Attributes:
        grader: The grader's name.
        format_revision: The newest form of its `config.json`.
    """

    __slots__ = ()
    grader: ClassVar[str]
    format_revision: ClassVar[int] = 1

    @classmethod
    @abstractmethod
    def parse(cls, fields: dict[str, Any]) -> None:
        """Replace what JSON holds by what the fields are; raise `CheckpointError` as `bad` says."""

    @abstractmethod
    def check(self) -> None:
        """Raise `CheckpointError` where fields do not go together."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that `from_dict` reads."""
        fields = dataclasses.asdict(self)  # type: ignore[call-overload]  # all are dataclasses
        return {"grader": self.grader, "format_revision": self.format_revision, **fields}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Build and validate a configuration.

        Raises:
            CheckpointError: It is another grader's, is of a newer format, or a field is missing,
                unknown, of the wrong kind or out of range; the message names the field.
        """
        if value.get("grader") != cls.grader:
            raise CheckpointError(
                f"this configuration is of grader {value.get('grader')!r}, not {cls.grader!r}",
                hint="check the path",
            )
        revision = value.get("format_revision")
        if type(revision) is not int or not 1 <= revision <= cls.format_revision:
            raise CheckpointError(
                f"format_revision is {revision!r}; this engine reads up to {cls.format_revision}",
                hint="install a newer asa-engine",
            )
        fields = {k: v for k, v in value.items() if k not in ("grader", "format_revision")}
        check_names(cls, fields, "config")
        if "front" in fields:
            fields["front"] = integer(fields["front"], "front", MOST_FRONT, least=0)
        cls.parse(fields)
        config = cls(**fields)
        config.check()
        return config

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read `config.json` of a checkpoint or bundle.

        Raises:
            CheckpointError: It is missing, not JSON, or not valid.
        """
        return cls.from_dict(read_json(Path(folder) / "config.json", CheckpointError))


def number(value: object, name: str) -> float:
    """Return a finite number, or raise `CheckpointError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad(name, value, "a finite number")
    return float(value)


def integer(value: object, name: str, most: int, least: int = 1) -> int:
    """Return a whole number from `least` to `most`, or raise `CheckpointError`."""
    if type(value) is not int or not least <= value <= most:
        raise bad(name, value, f"a whole number from {least} to {most}")
    return value


def ascending(value: object, name: str, least: int = 0) -> tuple[float, ...]:
    """Return at least `least` numbers, each above the last, or raise `CheckpointError`."""
    if not isinstance(value, list | tuple) or not least <= len(value) <= 1000:
        raise bad(name, value, f"a list of {least} to 1000 numbers")
    numbers = tuple(number(item, name) for item in value)
    if any(b <= a for a, b in itertools.pairwise(numbers)):
        raise bad(name, value, "ascending")
    return numbers


def parse_shape(cls: type[T], value: object, name: str, limits: Mapping[str, int]) -> T:
    """Read the shape of a network: a dataclass of whole numbers.

    Args:
        cls: The dataclass.
        value: What the configuration holds.
        name: Under which field.
        limits: What each number may be at most.

    Raises:
        CheckpointError: It is not such a shape; the message names the field.
    """
    if not isinstance(value, Mapping):
        raise bad(name, value, "an object")
    check_names(cls, value, name)
    return cls(**{key: integer(item, f"{name}.{key}", limits[key]) for key, item in value.items()})
