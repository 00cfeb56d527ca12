"""PyTorch: what every export is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec

from asa_engine.errors import BackendError
from asa_engine.runtimes.base import Availability, Runtime

__all__ = ["TorchRuntime"]


class TorchRuntime(Runtime):
    """PyTorch on the CPU: the reference of every grader."""

    name = "torch"

    @classmethod
    def availability(cls) -> Availability:
        """Usable where torch is installed (extra `train`)."""
        if find_spec("torch") is None:
            return Availability(False, "torch is not installed (pip install 'asa-engine[train]')")
        return Availability(True, "CPU", {"torch": metadata.version("torch")})

    @classmethod
    def need(
        cls,
        threads: int,
        precision: str = "fp32",
        *,
        of: Sequence[str] = ("fp32",),
        packages: Sequence[str] = (),
    ) -> None:
        """Set PyTorch's threads, or say what is missing.

        Args:
            threads: Threads PyTorch may use.
            precision: What is asked for.
            of: What the caller runs at.
            packages: What must be installed besides PyTorch.

        Raises:
            BackendError: A package is not installed, or the precision is none of those.
        """
        if not (here := cls.availability()).usable:
            raise BackendError("the torch backend cannot run here", hint=here.reason)
        if missing := [name for name in packages if find_spec(name) is None]:
            raise BackendError(
                f"the torch backend needs {' and '.join(missing)}",
                hint="pip install 'asa-engine[train,bench]'",
            )
        if precision not in of:
            raise BackendError(f"torch runs this grader at {' or '.join(of)}, not {precision}")
        import torch

        torch.set_num_threads(threads)
