"""A causal decoder on ONNX Runtime: embeddings in, hidden states out, keys and values kept.

The graph is that of `asa_export.language_model`. It fills buffers of keys and values in place, so
that a step costs what is new and no copy of what was. On a GPU they stay in its memory: embeddings
go up, hidden states come down.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.errors import BundleError, UsageError
from asa_engine.language_model.base import MEMORY_LIMIT_BYTES, CausalModel, check_state
from asa_engine.language_model.memory import KEPT_TYPES, DeviceMemory, HostMemory, Memory
from asa_engine.runtimes.onnxruntime import session
from asa_engine.runtimes.onnxruntime_gpu import CUDA_PROVIDER, gpu_session

__all__ = ["FIRST_KEY", "LONG", "POSITIONS_KEY", "Decoder", "Sequence"]

POSITIONS_KEY: Final = "positions"
"""Property of the graph: positions that its rotary tables cover."""
FIRST_KEY: Final = "first_positions"
"""Property of a graph with two regimes of LongRoPE: the longest sequence of the first."""
LONG: Final = "long"
"""Input of such a graph: whether a sequence is of the second."""
_ROWS_AT_ONCE: Final = 128
"""Rows of one pass: attention's scratch grows with them, and more are not faster."""
_PARTS: Final = ("key", "value")


class Decoder(CausalModel):
    """A decoder that any number of sequences, in any threads, may be run through.

    Args:
        graph: Its session.
        memory_limit_bytes: Most bytes of keys and values that a sequence may ask for.
        device: Where keys and values are kept: "cuda" with a session there; "" for the host.

    Attributes:
        width: Width W of embeddings and hidden states.
        positions: Most positions of a sequence.
        first_positions: Length above which LongRoPE's second regime holds for every position of a
            sequence; 0 where one regime holds for all.
    """

    def __init__(
        self, graph: Any, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES, device: str = ""
    ) -> None:
        shapes = {item.name: item.shape for item in graph.get_inputs()}
        types = {item.name: item.type for item in graph.get_inputs()}
        properties = graph.get_modelmeta().custom_metadata_map
        positions, first = properties.get(POSITIONS_KEY, ""), properties.get(FIRST_KEY, "0")
        if types.get("key_0") not in KEPT_TYPES or not positions.isdecimal():
            raise BundleError(
                "the language model's graph has no keys or no positions",
                hint="export the bundle again",
            )
        self.graph = graph
        self.width = shapes["embeddings"][2]
        self.positions = int(positions)
        self.first_positions = int(first) if LONG in shapes and first.isdecimal() else 0
        self.layers = sum(name.startswith("key_") for name in shapes)
        self.heads = shapes["key_0"][1]
        self.head_width = shapes["key_0"][3]
        self._kept_type = KEPT_TYPES[types["key_0"]]
        self._device = device
        self.memory_limit_bytes = memory_limit_bytes

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        threads: int,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
        device: str = "",
    ) -> Self:
        """Create the session.

        Args:
            path: The graph.
            threads: Threads one pass may use.
            memory_limit_bytes: Most bytes of keys and values that a sequence may ask for.
            device: "cuda" for the CUDA provider; "" for the CPU's.

        Raises:
            BackendError: ONNX Runtime cannot load it.
            BundleError: It is not a decoder's graph.
        """
        graph = gpu_session(path, CUDA_PROVIDER) if device else session(path, threads)
        return cls(graph, memory_limit_bytes=memory_limit_bytes, device=device)

    @property
    def bytes_per_position(self) -> int:
        """Bytes that keys and values of one position take."""
        item_bytes = np.dtype(self._kept_type.numpy).itemsize
        return len(_PARTS) * self.layers * self.heads * self.head_width * item_bytes

    def memory(self, capacity: int) -> Memory:
        """Make room for the keys and values of a sequence."""
        names = [f"{part}_{layer}" for layer in range(self.layers) for part in _PARTS]
        if not self._device:
            shape = (1, self.heads, capacity, self.head_width)
            return HostMemory(self._kept_type, names, shape)
        shape = (1, self.heads, self.positions, self.head_width)
        return DeviceMemory(self._kept_type, names, shape, self._device)

    def room(self, capacity: int) -> int:
        """Return the positions that memory is taken for: on a device all there are."""
        return self.positions if self._device else capacity

    def start(self, capacity: int) -> Sequence:
        """Return an empty sequence with room for `capacity` positions.

        Raises:
            UsageError: As for `check`; nothing was allocated.
        """
        self.check(capacity)
        return Sequence(self, capacity)

    def resume(self, state: NDArray[np.float32]) -> Sequence:
        """Return a full sequence of which another decoder gave the `state`; as the base says."""
        check_state(self, state)
        sequence = self.start(state.shape[3])
        for part, of_layers in zip(_PARTS, state, strict=True):
            for layer, values in enumerate(of_layers):
                sequence.memory.write(f"{part}_{layer}", values)
        sequence.length = sequence.capacity
        if self.first_positions:
            raise UsageError(
                "a beginning of this language model hangs on how long what follows is",
                hint="export the bundle again",
            )
        return sequence


class Sequence:
    """One sequence: what was run through the decoder so far. Not for two threads at once.

    With two regimes of LongRoPE its length decides, as in transformers, how every position is
    turned: what was run is kept, and run again when the length passes from one to the other.

    Args:
        decoder: Where it runs.
        capacity: Most positions it will have.

    Attributes:
        capacity: Most positions.
        length: Positions so far.
        memory: Keys and values of each layer.
    """

    def __init__(self, decoder: Decoder, capacity: int) -> None:
        self._decoder = decoder
        self._binding = decoder.graph.io_binding()
        self.memory = decoder.memory(capacity)
        self.capacity = capacity
        self.length = 0
        self._long = False
        self._rows = np.zeros((0, decoder.width), np.float32)  # of a decoder with two regimes
        for name, value in self.memory.values.items():
            self._binding.bind_ortvalue_input(name, value)
            self._binding.bind_ortvalue_output(f"new_{name}", value)

    def extend(
        self, embeddings: NDArray[np.float32], wanted: int | None = None
    ) -> NDArray[np.float32]:
        """Run new positions; return hidden states, as `CausalSequence.extend` says."""
        count, width = embeddings.shape
        if width != self._decoder.width or self.length + count > self.capacity:
            raise ValueError(
                f"{count} embeddings of width {width} do not fit {self.capacity - self.length} "
                f"free positions of width {self._decoder.width}"
            )
        rows = np.ascontiguousarray(embeddings, np.float32)
        if first := self._decoder.first_positions:
            self._turn(self.length + count > first)
            self._rows = np.concatenate((self._rows, rows))
        parts = [
            self._run(rows[start : start + _ROWS_AT_ONCE])
            for start in range(0, count, _ROWS_AT_ONCE)
        ]
        hidden = np.concatenate(parts) if parts else np.zeros((0, width), np.float32)
        return hidden if wanted is None else hidden[count - wanted :]

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind {self.length} positions to {length}")
        self.length = length
        self._rows = self._rows[:length]

    def state(self) -> NDArray[np.float32]:
        """Return keys, then values, of all positions, [2, layers, heads, length, head_width]."""
        return np.stack(
            [
                [
                    self.memory.read(f"{part}_{layer}", self.length)
                    for layer in range(self._decoder.layers)
                ]
                for part in _PARTS
            ]
        )

    def fork(self, capacity: int | None = None) -> Sequence:
        """Return a sequence of its own that begins like this one.

        Args:
            capacity: Its capacity; by default this one's.

        Raises:
            UsageError: As for `Decoder.start`.
        """
        other = self._decoder.start(max(capacity or self.capacity, self.length))
        other.memory.begin_like(self.memory, self.length)
        other.length, other._long, other._rows = self.length, self._long, self._rows
        return other

    def _turn(self, long: bool) -> None:
        """Run everything again, where it was run in the other regime."""
        if long == self._long:
            return
        rows, self.length, self._long = self._rows, 0, long
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            self._run(rows[start : start + _ROWS_AT_ONCE])

    def _run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        total = self.length + len(rows)
        # The binding refers to these arrays: they must live until it has run.
        inputs = {
            "embeddings": rows[np.newaxis],
            "last": np.array([total - 1], np.int32),
            "total": np.array(total, np.int32),
        }
        if self._decoder.first_positions:
            inputs[LONG] = np.array(self._long)
        for name, value in inputs.items():
            self._binding.bind_cpu_input(name, value)
        hidden: NDArray[np.float32] = np.empty((1, *rows.shape), np.float32)
        self._binding.bind_ortvalue_output("hidden", _shared(hidden))
        self._decoder.graph.run_with_iobinding(self._binding)
        self.length = total
        last: NDArray[np.float32] = hidden[0]
        return last


def _shared(array: NDArray[np.float32]) -> Any:
    """Return the runtime's view of an array's own memory."""
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(array)
