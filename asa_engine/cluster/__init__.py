"""Many machines, on Ray. Needs the extra `ray`.

    serve run asa_engine.cluster:app store=streams.db max_replicas=4

node.py      join a Ray cluster, or start one on the loopback
scale.py     how many replicas, and what each takes of a machine
replica.py   a replica: a server's workers behind Serve's proxy
gate.py      lets nobody in from elsewhere without keys and TLS
serving.py   `asa-engine serve --ray`
batch.py     `asa-engine assess --ray`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["app"]


def app(arguments: Mapping[str, str]) -> Any:
    """Return the application that `serve run` and `serve deploy` run.

    Args:
        arguments: Fields of `asa_engine.server.settings.Settings` and of `Scale`, as texts. Keys,
            a store and its key may be in the environment, as for `asa-engine serve`.

    Returns:
        A `ray.serve.Application`.

    Raises:
        AsaError: An argument is unknown or cannot be used.
    """
    from asa_engine.cluster.node import stay_on_loopback  # Ray takes seconds to import
    from asa_engine.cluster.replica import application
    from asa_engine.cluster.scale import from_arguments

    stay_on_loopback()  # `serve run` starts Ray after this
    return application(*from_arguments(arguments))
