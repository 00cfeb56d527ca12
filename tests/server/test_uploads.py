"""A server's memory does not grow with uploads; `uploads.py` sends it ten thousand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the extra 'server'")
pytest.importorskip("aiohttp", reason="needs the extra 'test'")

from uploads import Memory, trial

BOUND_MIB = 16.0  # two hundred kept bodies and their samples would be 40


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_does_not_grow_with_uploads(fake_bundle: Path) -> None:
    memory = trial(("--bundle", str(fake_bundle), "--backend", "fake"), 200, every=50)
    assert len(memory.mib) == 40
    assert min(memory.mib) > 20  # a server was looked at
    assert memory.growth_mib < BOUND_MIB


def test_growth_is_seen() -> None:
    assert Memory([100.0 + n for n in range(40)]).growth_mib == 20
    assert Memory([50.0] * 10 + [90.0] * 30).growth_mib == 0  # only at the start
