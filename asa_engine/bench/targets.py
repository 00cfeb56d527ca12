"""The figures to reach, checked against a result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Target", "check_targets"]

_THIRTY_SECONDS = re.compile(r"\b30 s\b")


@dataclass(frozen=True, slots=True)
class Target:
    """One figure to reach.

    Attributes:
        name: What is measured.
        limit: What it should be, for people.
        figure: What it is, for people; empty where it was not measured.
        met: Whether it is reached; `None` where it was not measured.
    """

    name: str
    limit: str
    figure: str
    met: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Return the target as JSON values."""
        return asdict(self)


def check_targets(result: Mapping[str, Any]) -> list[Target]:
    """Compare a result with every target; what was not measured stays open.

    Speeds are those of the bundle's own choice ("auto"), not of whichever candidate was fastest.
    """
    rows, auto = result["rows"], result["bundle"]["auto"]
    return [
        _offline(_row(rows, "Offline", auto)),
        _time_to_score(_row(rows, "TimeToScore", auto)),
        _log_mel([row for row in rows if row["scenario"] == "LogMel" and not row["is_reference"]]),
        *_cold_run(result.get("cold_run")),
        _install(result.get("install")),
    ]


def _row(rows: list[dict[str, Any]], scenario: str, candidate: str) -> dict[str, Any] | None:
    """The row of a candidate on one thread whose task is about 30 s of speech."""
    for row in rows:
        if (row["scenario"], row["candidate"], row["threads"]) == (
            scenario,
            candidate,
            1,
        ) and _THIRTY_SECONDS.search(row["task"]):
            return row
    return None


def _offline(row: dict[str, Any] | None) -> Target:
    name = "Offline, 30 s recordings, one thread: times faster than PyTorch fp32"
    if row is None:
        return Target(name, "at least 3", "", None)
    ratio = row["speedup"]["median"]
    return Target(name, "at least 3", f"{ratio:.2f} ({row['candidate']})", ratio >= 3.0)


def _time_to_score(row: dict[str, Any] | None) -> Target:
    name = "Time to score after a 30 s stream, one thread: share of PyTorch's whole-file time"
    if row is None:
        return Target(name, "at most 1/10", "", None)
    ratio = row["speedup"]["median"]
    figure = f"1/{ratio:.1f}, {row['p50_ms']:.1f} ms ({row['candidate']})"
    return Target(name, "at most 1/10", figure, ratio >= 10.0)


def _log_mel(rows: list[dict[str, Any]]) -> Target:
    name = "Log-mel: times faster than Hugging Face's extractor, one thread"
    if not rows:
        return Target(name, "at least 6", "", None)
    figure = ", ".join(f"{row['speedup']['median']:.1f} at {row['audio_s']:g} s" for row in rows)
    return Target(name, "at least 6", figure, all(row["speedup"]["median"] >= 6.0 for row in rows))


def _cold_run(cold: dict[str, Any] | None) -> list[Target]:
    wall = "asa-engine assess, 5 s file, whole process: wall time"
    memory = "asa-engine assess, 5 s file, whole process: peak resident memory"
    imports = "torch and transformers imported when a recording is scored"
    if cold is None:
        return [
            Target(wall, "at most 1.5 s", "", None),
            Target(memory, "at most 350 MB", "", None),
            Target(imports, "no", "", None),
        ]
    p50, peak, named = cold["p50_s"], cold["peak_rss_mb"], cold["forbidden_imported"]
    return [
        Target(wall, "at most 1.5 s", f"{p50:.2f} s", p50 <= 1.5),
        Target(memory, "at most 350 MB", f"{peak:.0f} MB", peak <= 350.0),
        Target(imports, "no", ", ".join(named) or "no", not named),
    ]


def _install(install: dict[str, Any] | None) -> Target:
    name = "Run-time install, whole environment"
    if install is None:
        return Target(name, "at most 300 MB", "", None)
    total = install["total_mb"]
    return Target(name, "at most 300 MB", f"{total:.0f} MB", total <= 300.0)
