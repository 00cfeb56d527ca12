"""How many replicas there are, and what each takes of a machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from asa_engine.errors import UsageError
from asa_engine.server.settings import Settings
from asa_engine.server.store.sealing import read_key

__all__ = ["Scale", "from_arguments"]

FULL: Final = 0.75
"""Of its places for streams, which a replica is to have taken before there is another one."""
SPARE: Final = 16  # requests beside streams and uploads: probes, metrics, refusals
_MOST: Final = 10_000
_ENVIRONMENT: Final = {
    "keys": "ASA_SERVER_KEYS",
    "store": "ASA_STORE",
    "store_key": "ASA_STORE_KEY",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How far to scale out.

    Attributes:
        min_replicas: Always there.
        max_replicas: Where streams ask for them.
        gpus: NVIDIA GPUs of a replica; a half is half of one's time and memory, on trust.
    """

    min_replicas: int = 1
    max_replicas: int = 8
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            UsageError: A number is out of range.
        """
        if not 1 <= self.min_replicas <= self.max_replicas <= _MOST:
            raise UsageError(
                f"from {self.min_replicas} to {self.max_replicas} replicas make no scale",
                hint=f"min_replicas is at least 1, max_replicas no less, and at most {_MOST}",
            )
        if not (0 <= self.gpus < 1 or (self.gpus <= 64 and self.gpus == int(self.gpus))):
            raise UsageError(
                f"a replica cannot have {self.gpus:g} GPUs", hint="a share, or 1, 2..."
            )

    def deployment(self, settings: Settings) -> dict[str, Any]:
        """Return the options of the Serve deployment of servers with these settings."""
        places = settings.max_streams + settings.max_uploads
        return {
            "name": "asa-engine",
            # Beyond these, requests wait in the proxy, where nobody tells them that it is full.
            "max_ongoing_requests": places + SPARE,
            "max_queued_requests": SPARE,
            "ray_actor_options": {
                "num_cpus": settings.workers * settings.threads,
                "num_gpus": self.gpus,
            },
            "autoscaling_config": {
                "min_replicas": self.min_replicas,
                "max_replicas": self.max_replicas,
                "target_ongoing_requests": max(1.0, FULL * settings.max_streams),
                "upscale_delay_s": 5.0,  # learners of a test come together
                "look_back_period_s": 15.0,  # of figures that come every ten
            },
            "graceful_shutdown_timeout_s": settings.drain_s,
            "health_check_period_s": 5.0,
            # What is asked and answered is in the server's own lines.
            "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
        }


def from_arguments(arguments: Mapping[str, str]) -> tuple[Settings, Scale]:
    """Return what texts `name=value` and the environment say.

    Raises:
        UsageError: A name is unknown, or a value cannot be used.
    """
    known = {field.name: field for kind in (Settings, Scale) for field in fields(kind)}
    # Serve's proxy listens, and it alone knows where.
    for name in ("host", "port", "tls_cert", "tls_key", "max_connections"):
        del known[name]
    values: dict[str, Any] = {
        name: os.environ[variable]
        for name, variable in _ENVIRONMENT.items()
        if os.environ.get(variable)
    }
    values["store_key"] = read_key(None, values.get("store_key", ""))
    for name, text in arguments.items():
        if name not in known:
            raise UsageError(f"there is no argument {name}", hint=f"known: {', '.join(known)}")
        values[name] = _value(name, str(known[name].type), str(text))
    scale = {field.name for field in fields(Scale)}
    return (
        Settings(**{name: value for name, value in values.items() if name not in scale}),
        Scale(**{name: value for name, value in values.items() if name in scale}),
    )


def _value(name: str, kind: str, text: str) -> Any:
    """Return a value of a field's type, which is annotated as a text."""
    if name == "store_key":
        return read_key(Path(text), "")
    try:
        if kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind in ("int", "float"):
            return int(text) if kind == "int" else float(text)
    except (KeyError, ValueError):
        raise UsageError(f"{name} cannot be {text[:100]!r}") from None
    if kind.startswith("tuple"):
        return tuple(text.split(","))
    return Path(text) if kind.startswith("Path") else text
