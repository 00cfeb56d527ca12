"""Before the first learner: every engine scores something, so that it is warm and known to work."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine.engine import Engine
from asa_engine.errors import AsaError, BundleError

__all__ = ["check_scores"]

_RATE_HZ: Final = 16_000
_SECONDS: Final = 2.0
_TEXT: Final = "THE SUN IS WARM"


def check_scores(engine: Engine) -> None:
    """Score a made-up voice with the engine.

    Raises:
        BundleError: It does not, or what it says are no numbers.
    """
    try:
        if engine.hears_sessions:
            return _check_session(engine)
        with engine.stream(_RATE_HZ, **dict.fromkeys(engine.uses, _TEXT)) as stream:
            stream.feed(_voice())
            stream.finish()
    except AsaError:
        raise
    except Exception as failure:
        raise BundleError(
            f"{engine.bundle.name} loads but does not score: {type(failure).__name__}: {failure}",
            hint="export the bundle again; 'asa-engine verify' says what is wrong with one",
        ) from failure


def _check_session(engine: Engine) -> None:
    with engine.session() as session:
        session.begin(engine.config.parts[0].name, _RATE_HZ)
        session.feed(_voice())
        session.end()
        session.finish()


def _voice() -> NDArray[np.float32]:
    """Return harmonics of a gliding pitch, four syllables a second; float32 [n] at 16 kHz."""
    time_s = np.arange(int(_SECONDS * _RATE_HZ)) / _RATE_HZ
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * time_s)) / _RATE_HZ
    tone = sum(np.sin(k * phase) / k for k in range(1, 25))
    return (0.05 * tone * (1 - np.cos(8 * np.pi * time_s))).astype(np.float32)
