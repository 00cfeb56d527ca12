"""Assessments in forms that other programs read: tables, Praat's TextGrid, Azure's JSON, xAPI.

docs/formats.md says field by field what stands where, and what cannot be filled.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from asa_engine.assessment import Assessment
from asa_engine.formats.table import HEADER, to_csv

if TYPE_CHECKING:
    from asa_engine.formats.azure import to_azure
    from asa_engine.formats.textgrid import to_textgrid
    from asa_engine.formats.xapi import to_xapi

__all__ = ["FORMATS", "Format", "to_azure", "to_csv", "to_textgrid", "to_xapi"]


@dataclass(frozen=True, slots=True)
class Format:
    """A form that an assessment is written in.

    Attributes:
        write: Return an assessment in it, with a name for its recording; ends with a line break.
        suffix: Of files.
        header: What stands once before the first assessment.
    """

    write: Callable[[Assessment, str], str]
    suffix: str
    header: str = ""


def _json_line(result: Assessment, audio: str) -> str:
    return json.dumps({"audio": audio, **result.to_dict()}) + "\n"


def _azure_line(result: Assessment, audio: str) -> str:
    return json.dumps(_form("azure")(result), ensure_ascii=False) + "\n"


def _textgrid(result: Assessment, audio: str) -> str:
    written: str = _form("textgrid")(result)
    return written


FORMATS: Final[Mapping[str, Format]] = {
    "json": Format(_json_line, ".json"),
    "csv": Format(to_csv, ".csv", header=HEADER),
    "textgrid": Format(_textgrid, ".TextGrid"),
    "azure": Format(_azure_line, ".azure.json"),
}
"""Name -> form."""


def _form(name: str) -> Any:
    """Return what writes a form, imported now: a table waits for no pronunciations of words."""
    return getattr(importlib.import_module(f"{__name__}.{name}"), f"to_{name}")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _form(name.removeprefix("to_"))
