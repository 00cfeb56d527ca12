"""A Ray cluster of two nodes, processes of this machine on its loopback, that a test may kill.

python tests/ray_cluster.py

starts one and prints its address; a line on its input kills its second node.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

START_S = 180.0
CPUS = 1  # of each node


@dataclass
class RayCluster:
    """A cluster that runs.

    Attributes:
        address: Where its head is.
        process: Its parent.
        output: What that says.
    """

    address: str
    process: subprocess.Popen[str]
    output: IO[str]

    @property
    def environment(self) -> dict[str, str]:
        """What a command that is to join it has."""
        return _environment() | {"RAY_ADDRESS": self.address}

    def processes(self, name: str, below: int | None = None) -> list[int]:
        """Return the ids of its processes in whose command line a text occurs.

        Args:
            name: The text.
            below: Only children of this process, and theirs; all of the cluster's by default.
        """
        return [each for each in _family(below or self.process.pid) if name in _command(each)]

    def raylets(self) -> list[int]:
        """Return the ids of the nodes, the head first."""
        return sorted(each for each in self.processes("raylet/raylet ") if _is_alive(each))

    def kill_second_node(self) -> None:
        """Kill it, and all that runs there."""
        assert self.process.stdin is not None
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.output.readline() == "killed\n"


@contextlib.contextmanager
def ray_cluster(errors: Path) -> Iterator[RayCluster]:
    """Start a cluster for the block; one that cannot start fails, with what Ray says of it.

    Args:
        errors: File for what its processes write to standard error.
    """
    with errors.open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=_environment(),
        )
        # What hangs as it starts has said nothing by then.
        timer = threading.Timer(START_S, process.kill)
        timer.start()
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            timer.cancel()
            if not address:
                said.seek(0)
                pytest.fail(f"Ray does not start here:\n{said.read()[-3000:]}", pytrace=False)
            yield RayCluster(address, process, process.stdout)
        finally:
            timer.cancel()
            family = _family(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=60)  # its input ends, and so does it
            for each in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, 9)
            process.wait()


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    # On, as Ray has it: switching it off is ours.
    # A busy machine takes longer than five seconds to start a proxy, which is then shot.
    patience = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
    return {**os.environ, **patience, "PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "1"}


def _family(process: int) -> list[int]:
    """Return a process, its children and theirs."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            each = int(folder.name)
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            parents.setdefault(int(parent), []).append(each)
    found = [process]
    for each in found:
        found += parents.get(each, [])
    return found


def _command(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def _is_alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def main() -> None:
    """Start a cluster; kill its second node when told to."""
    import asa_engine  # before Ray: it switches off what Ray would report

    assert asa_engine.__name__
    from ray.cluster_utils import Cluster

    here = {"node_ip_address": "127.0.0.1", "num_cpus": CPUS, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=here)
    second = cluster.add_node(node_ip_address="127.0.0.1", num_cpus=CPUS)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
