"""A bundle that does not score never listens; what is no number never leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_samples import encoded, speech
from server_client import Client, pcm, streamed

from asa_engine.assessment import Prior, Score
from asa_engine.cli.main import main
from asa_engine.errors import BundleError
from asa_engine.graders.acoustic.backends.fake import FakeBackend

ANSWER = speech(1.2, seed=3)


def _no_output(self: FakeBackend, *args: Any, **options: Any) -> Any:
    raise KeyError("an output that the graph has not")


def _nan(encode: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: FakeBackend, *args: Any, **options: Any) -> Any:
        return encode(self, *args, **options) * np.float32(np.nan)

    return broken


@pytest.mark.parametrize("broken", [_no_output, _nan(FakeBackend.encode)], ids=["output", "nan"])
def test_a_broken_bundle_does_not_listen(
    fake_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: Any,
) -> None:
    monkeypatch.setattr(FakeBackend, "encode", broken)
    options = ["--bundle", str(fake_bundle), "--backend", "fake", "--port", "0"]
    assert main(["serve", *options]) == 4
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1


def test_no_answer_holds_nan(with_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(client: Client) -> None:
        monkeypatch.setattr(FakeBackend, "encode", _nan(FakeBackend.encode))
        async with client.assess(encoded(ANSWER)) as response:
            assert response.status == 500
            assert "NaN" not in await response.text()
        told = (await streamed(client, pcm(ANSWER)))[-1]
        assert told["type"] == "error"

    with_server(scenario)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_is_a_number(value: float) -> None:
    with pytest.raises(BundleError, match="no score"):
        Score(value, 0.0, 10.0)
    with pytest.raises(BundleError, match="no score"):
        Score(1.0, 0.0, 10.0, sd=value)
    with pytest.raises(BundleError, match="no score"):
        Score(1.0, 0.0, 10.0, probabilities={"a": value})
    with pytest.raises(BundleError, match="no score"):
        Prior((1.0,), (value,))


def test_ready_and_live_are_told_apart(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        for path in ("/livez", "/readyz"):
            async with client.get(path) as response:
                assert (response.status, await response.json()) == (200, {"status": "ok"})
        client.server.pool.draining = True
        async with client.get("/readyz") as response:
            assert (response.status, await response.json()) == (503, {"status": "draining"})
        async with client.get("/livez") as response:
            assert response.status == 200

    with_server(scenario)


def test_a_server_without_its_workers_is_not_ready(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        client.server.pool.stop()
        async with client.get("/readyz") as response:
            assert response.status == 503

    with_server(scenario)
