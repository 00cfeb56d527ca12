"""A process that scores recordings: the first request loads the engine, each other is a recording.

python -m asa_engine.batch.worker
"""

from __future__ import annotations

from typing import Any

from asa_engine.engine import Engine, load
from asa_engine.errors import AsaError
from asa_engine.workers import answer_requests

__all__: list[str] = []


class _Scorer:
    def __init__(self) -> None:
        self._engine: Engine | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load the engine, or score; what was not meant to happen ends the process."""
        if self._engine is None:
            try:
                self._engine = load(**request)
            except AsaError as error:
                return {"failure": error.to_dict()}
            return {}
        try:
            result = self._engine.assess(request["audio"], **request["texts"])
        except AsaError as error:
            return {"outcome": error.to_dict()}
        return {"outcome": result.to_dict()}


if __name__ == "__main__":
    answer_requests(_Scorer().answer)
