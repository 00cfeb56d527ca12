"""CTranslate2 on the CPU: recognisers, text encoders and language models."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from asa_engine.errors import BackendError
from asa_engine.runtimes.base import Availability, Runtime

__all__ = ["CTranslate2Runtime", "open_model"]


class CTranslate2Runtime(Runtime):
    """Runs recognisers, text encoders and language models; the graders open them."""

    name = "ctranslate2"

    @classmethod
    def availability(cls) -> Availability:
        """Usable where the ctranslate2 package is installed."""
        try:
            version = metadata.version("ctranslate2")
        except metadata.PackageNotFoundError:
            return Availability(
                False, "ctranslate2 is not installed (pip install 'asa-engine[recogniser]')"
            )
        return Availability(True, "CPU", {"ctranslate2": version})


def open_model(kind: Literal["Encoder", "Generator"], folder: Path, threads: int) -> Any:
    """Open a model at the precision that its files were written at.

    Args:
        kind: CTranslate2's class.
        folder: Its files.
        threads: Threads one text is computed with.

    Raises:
        BackendError: The package is not installed, or cannot load the files.
    """
    try:
        import ctranslate2
    except ImportError:
        raise BackendError(
            "this variant needs ctranslate2", hint="pip install 'asa-engine[recogniser]'"
        ) from None
    try:
        return getattr(ctranslate2, kind)(
            str(folder), compute_type="default", intra_threads=threads, inter_threads=1
        )
    except (RuntimeError, ValueError) as failure:
        raise BackendError(
            f"ctranslate2 cannot load {folder.name}: {failure}",
            hint="export the bundle again with this version of ctranslate2",
        ) from None
