"""What a runtime is: a library that runs models, for one grader or several.

What runs a grader on it is the grader's own: its backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

__all__ = ["Availability", "Runtime"]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a runtime can run here.

    Attributes:
        usable: It can.
        reason: Why not, or what it found, in one line.
        versions: Library -> version, for the receipt.
    """

    usable: bool
    reason: str
    versions: dict[str, str] = field(default_factory=dict)


class Runtime(ABC):
    """A library that runs models, for one grader or several.

    Attributes:
        name: Key in `RUNTIMES`.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability:
        """Tell whether the libraries and the hardware it needs are here. Never raises."""
