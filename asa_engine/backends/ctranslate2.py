"""CTranslate2 on the CPU: recognisers, text encoders and language models."""

from __future__ import annotations

from importlib import metadata

from asa_engine.backends.base import Availability, Runtime

__all__ = ["CTranslate2Runtime"]


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
