"""SIGKILL at random moments loses no answer; `kills.py` does it a hundred times."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the extra 'server'")
pytest.importorskip("aiohttp", reason="needs the extra 'test'")

from kills import trial

import asa_engine as asa


@pytest.mark.parametrize("servers", [1, 2])
def test_sigkill_loses_no_answer(
    place: str, fake_bundle: Path, offline: asa.Engine, servers: int
) -> None:
    async def run() -> None:
        options = ("--bundle", str(fake_bundle), "--backend", "fake")
        made = trial(place, options, offline, 3, servers=servers)
        seen = await asyncio.wait_for(made.run(2), 300)  # a hang fails; nothing is measured
        assert seen.streams
        assert seen.resumed

    asyncio.run(run())
