"""What is told to a cluster, and whom its replicas let in; no Ray is needed for that."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra 'server'")

from asa_engine.cluster.gate import Gate
from asa_engine.cluster.scale import Scale, from_arguments
from asa_engine.errors import UsageError
from asa_engine.server.settings import Settings


def test_arguments_are_fields_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASA_STORE", "postgresql://asa@db/streams")
    settings, scale = from_arguments(
        {"bundle": "acoustic", "max_streams": "16", "idle_timeout_s": "5", "insecure": "true"}
        | {"allow_hosts": "a.example,b.example", "max_replicas": "40", "gpus": "0.5"}
    )
    assert settings == Settings(
        bundle=Path("acoustic"),
        max_streams=16,
        idle_timeout_s=5.0,
        insecure=True,
        allow_hosts=("a.example", "b.example"),
        store="postgresql://asa@db/streams",
    )
    assert scale == Scale(1, 40, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"streams": "4"}, "there is no argument streams"),
        ({"host": "0.0.0.0"}, "there is no argument host"),  # Serve's proxy listens
        ({"max_streams": "many"}, "max_streams cannot be 'many'"),
        ({"insecure": "perhaps"}, "insecure cannot be 'perhaps'"),
        ({"max_streams": "0"}, "max_streams must be from 1"),
        ({"min_replicas": "9"}, "from 9 to 8 replicas"),
        ({"gpus": "1.5"}, "a replica cannot have 1.5 GPUs"),
    ],
)
def test_what_cannot_be_used_is_said(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_arguments(arguments)


def test_a_replica_has_room_for_every_place_and_its_resources() -> None:
    settings = Settings(max_streams=32, max_uploads=8, workers=2, threads=3)
    options = Scale(2, 5, 1.0).deployment(settings)
    assert options["max_ongoing_requests"] > 32 + 8
    assert options["ray_actor_options"] == {"num_cpus": 6, "num_gpus": 1.0}
    scaling = options["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 5)
    assert scaling["target_ongoing_requests"] == 24


async def _inside(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "inside"})


@pytest.mark.parametrize(
    ("server", "scheme", "settings", "is_in"),
    [
        ("127.0.0.1", "http", {}, True),
        ("::1", "http", {}, True),
        ("10.0.0.5", "http", {}, False),
        ("10.0.0.5", "https", {}, False),
        ("10.0.0.5", "http", {"keys": "name hash score"}, False),
        ("10.0.0.5", "https", {"keys": "name hash score"}, True),
        ("10.0.0.5", "http", {"insecure": True}, True),
        (None, "http", {}, False),
    ],
)
def test_from_elsewhere_it_asks_for_keys_and_tls(
    server: str | None, scheme: str, settings: dict[str, Any], is_in: bool
) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    gate = Gate(_inside, Settings(**settings))
    for kind, shown in (("http", scheme), ("websocket", scheme.replace("http", "ws"))):
        scope = {"type": kind, "scheme": shown, "server": server and (server, 8000)}
        asyncio.run(gate(scope, None, send))  # type: ignore[arg-type]
    kinds = [message["type"] for message in sent]
    out = ["http.response.start", "http.response.body", "websocket.close"]
    assert kinds == (["inside"] * 2 if is_in else out)


@pytest.mark.parametrize("insecure", [False, True])
def test_behind_haproxy_nobody_is_taken_for_local(insecure: bool) -> None:
    sent: list[str] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    settings = Settings(keys="name hash score", insecure=insecure)
    gate = Gate(_inside, settings, sees_clients=False)  # type: ignore[arg-type]
    scope = {"type": "http", "scheme": "https", "server": ("127.0.0.1", 30_000)}
    asyncio.run(gate(scope, None, send))  # type: ignore[arg-type]
    assert (sent == ["inside"]) is insecure
