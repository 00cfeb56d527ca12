"""What schemathesis makes of the OpenAPI document: no fault, and answers as described."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("schemathesis", reason="needs the extra 'dev'")
pytest.importorskip("uvicorn", reason="needs the extra 'server'")

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from asa_engine.server.openapi import openapi

DOCUMENT = openapi("1")
EXAMPLES = 25
OPERATIONS = [
    (path, method)
    for path, operations in DOCUMENT["paths"].items()
    for method in operations
    if method != "parameters"
]


@pytest.fixture
def url(fake_bundle: Path, tmp_path: Path) -> Iterator[str]:
    """A server on a loop of its own thread."""
    from asa_engine.server.serving import running
    from asa_engine.server.settings import Settings

    kept = Settings(bundle=fake_bundle, backend="fake", port=0, store=tmp_path / "streams.db")
    listening, over = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async with running(kept) as server:
            found.append(server.url)
            listening.set()
            while not over.is_set():
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert listening.wait(30)
        yield found[0]
    finally:
        over.set()
        thread.join(30)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_every_operation_answers_as_described(
    url: str, path: str, method: str, mode: schemathesis.GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    operation = schema[path][method.upper()]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        response = case.call(base_url=url, timeout=20)
        assert response.status_code < 500, response.text
        # No schema says what audio is: bytes of the right form may well be refused.
        excluded = [positive_data_acceptance]
        if response.status_code == 426:  # a refusal, which schemathesis does not know as one
            excluded.append(negative_data_rejection)
        case.validate_response(response, excluded_checks=excluded)

    try:
        ask()
    except Unsatisfiable:
        pytest.skip("nothing about it can be wrong")
