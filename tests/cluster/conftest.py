"""One Ray cluster, in which all tests here run, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from ray_cluster import RayCluster, ray_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A cluster of two nodes with a CPU each."""
    if find_spec("ray") is None:
        pytest.skip("needs the extra 'ray': make ray-tests")
    with ray_cluster(tmp_path_factory.mktemp("ray") / "errors.txt") as running:
        yield running
