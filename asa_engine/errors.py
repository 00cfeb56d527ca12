"""Every error that asa_engine raises on purpose.

AsaError                 exit code
|-- UsageError                   2   wrong option, value or recipe
|   `-- ManifestError            2   a manifest line that cannot be used (names file and line)
|-- AudioError                   3   audio that cannot be read or scored
|-- ArtifactError                4   something on disk or installed is unusable
|   |-- CheckpointError          4   a training checkpoint
|   |-- BundleError              4   a bundle or one of its artifacts
|   `-- BackendError             4   a run-time backend, or the library behind it
`-- DriftError                   5   scores moved further than the budget allows

Each carries one line saying what is wrong and, in `hint`, what to do about it.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "AsaError",
    "AudioError",
    "BackendError",
    "BundleError",
    "CheckpointError",
    "DriftError",
    "ManifestError",
    "UsageError",
]


class AsaError(Exception):
    """Base of all errors a user can cause or meet.

    Args:
        message: What is wrong, one line, naming the file or value.
        hint: What to do about it, one line; empty where nothing can be said.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def to_dict(self) -> dict[str, str | int]:
        """Return the error as the JSON object that `--json` prints; `mend` is `hint`'s old name."""
        return {
            "error": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "mend": self.hint,
            "exit_code": self.exit_code,
        }


class UsageError(AsaError):
    """A wrong option, argument or recipe value."""

    exit_code = 2


class ManifestError(UsageError):
    """A manifest that cannot be used; the message names the file and the line."""


class AudioError(AsaError):
    """Audio that cannot be read, or holds nothing that could be scored."""

    exit_code = 3


class ArtifactError(AsaError):
    """Something on disk, or installed, that cannot be used."""

    exit_code = 4


class CheckpointError(ArtifactError):
    """A training checkpoint that is missing, damaged or of another format."""


class BundleError(ArtifactError):
    """A bundle, or one of its artifacts, that is missing, damaged or of another format."""


class BackendError(ArtifactError):
    """A backend that cannot run here, or not at the precision asked for."""


class DriftError(AsaError):
    """Scores that moved further from the reference than the budget allows."""

    exit_code = 5
