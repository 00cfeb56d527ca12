"""A causal language model on the project's kernels: weights packed once, no graph.

A file of tensors holds all that decides a result: matrices, norms, cosines and sines of the rotary
angles, so that variants of these are the exporter's affair; its metadata say what shapes do not. A
position's hidden state is the same, bit for bit, however its sequence is cut, for any number of
threads and whatever else runs beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine import _kernels
from asa_engine.artifacts.safetensors import Tensors
from asa_engine.errors import BundleError
from asa_engine.kernels import isa
from asa_engine.language_model.base import MEMORY_LIMIT_BYTES, CausalModel, check_state

__all__ = [
    "CLOSING_NORM",
    "GROUP",
    "LINEARS",
    "ROTARY",
    "STATED",
    "NativeModel",
    "NativeSequence",
]

STATED: Final = ("layers", "heads", "kv_heads", "norm_epsilon")
"""What the metadata of a file says."""
ROTARY: Final = ("rotary.cosines", "rotary.sines")
"""Tables [positions, rotated / 2]."""
LINEARS: Final = tuple(
    [f"self_attn.{part}_proj" for part in "qkvo"]
    + [f"mlp.{p}_proj" for p in ("gate", "up", "down")]
)
"""Linear layers of a layer."""
CLOSING_NORM: Final = "model.norm.weight"
GROUP: Final = 128
"""int8: inputs of an output that share a scale."""
_NORMS: Final = ("input_layernorm", "post_attention_layernorm")


class NativeModel(CausalModel):
    """A language model whose weights are packed for this CPU.

    Args:
        tensors: `model.layers.N.*.weight` of `LINEARS`, float32 [N, K], or int8 with a `scale`
            float32 [N, ceil(K / 128)] beside it; `bias` [N] of queries, keys and values, or of
            none; the norms; `ROTARY`. Their metadata hold what `STATED` names.
        threads: Threads that one pass may use.
        memory_limit_bytes: Most bytes of keys and values that a sequence may ask for.

    Attributes:
        precision: `fp32` or `int8`, of the linear layers.

    Raises:
        BackendError: `ASA_CPU_ISA` names an instruction set this CPU lacks.
        BundleError: These are not the tensors of such a model.
        CheckpointError: A tensor is missing, of another shape, or not finite.
    """

    def __init__(
        self, tensors: Tensors, *, threads: int, memory_limit_bytes: int = MEMORY_LIMIT_BYTES
    ) -> None:
        isa()
        self.memory_limit_bytes = memory_limit_bytes
        first = f"model.layers.0.{LINEARS[0]}.weight"
        try:
            self.layers, heads, self.heads = (int(tensors.metadata[name]) for name in STATED[:3])
            epsilon = float(tensors.metadata[STATED[3]])
            outputs, self.width = tensors.shape(first)
            inner, _ = tensors.shape(f"model.layers.0.{LINEARS[-2]}.weight")
            self.positions, half = tensors.shape(ROTARY[0])
            self.head_width = outputs // heads
            self.precision = "int8" if tensors.dtype(first) == "I8" else "fp32"
            self.kernel = _kernels.LanguageModel(
                self.width,
                self.layers,
                heads,
                self.heads,
                self.head_width,
                inner,
                2 * half,
                self.positions,
                epsilon,
                self.precision,
                threads,
            )
        except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
            raise BundleError(
                f"{tensors.path} holds no language model: {error}", hint="export the bundle again"
            ) from None
        queries, keys = heads * self.head_width, self.heads * self.head_width
        width = self.width
        attention = ((queries, width), (keys, width), (keys, width), (width, queries))
        shapes = (*attention, (inner, width), (inner, width), (width, inner))
        for layer in range(self.layers):
            self._set_layer(tensors, layer, shapes)
        angles = [tensors.read(name, (self.positions, half)) for name in ROTARY]
        self.kernel.set_closing([tensors.read(CLOSING_NORM, (width,)), *angles])

    @classmethod
    def open(
        cls, path: Path, *, threads: int, memory_limit_bytes: int = MEMORY_LIMIT_BYTES
    ) -> Self:
        """Read a file.

        Raises:
            BackendError: `ASA_CPU_ISA` names an instruction set this CPU lacks.
            BundleError: It holds no such model.
            CheckpointError: It is damaged, or a tensor is missing or of another shape.
        """
        return cls(Tensors(path), threads=threads, memory_limit_bytes=memory_limit_bytes)

    @property
    def bytes_per_position(self) -> int:
        """Bytes that keys and values of one position take."""
        return 2 * self.layers * self.heads * self.head_width * np.dtype(np.float32).itemsize

    def start(self, capacity: int) -> NativeSequence:
        """Return an empty sequence with room for `capacity` positions."""
        self.check(capacity)
        return NativeSequence(self, capacity)

    def resume(self, state: NDArray[np.float32]) -> NativeSequence:
        """Return a full sequence with these keys and values."""
        check_state(self, state)
        sequence = self.start(state.shape[3])
        sequence.past.write(np.ascontiguousarray(state, np.float32), state.shape[3])
        return sequence

    def extend_all(
        self,
        sequences: Sequence[NativeSequence],
        embeddings: Sequence[NDArray[np.float32]],
        wanted: Sequence[int],
    ) -> list[NDArray[np.float32]]:
        """Run new positions of several sequences in one pass over the weights.

        Each gets the bits that it gets alone.

        Raises:
            ValueError: As for `NativeSequence.extend`, or a sequence is another model's, or twice
                there.
        """
        rows = [np.ascontiguousarray(part, np.float32) for part in embeddings]
        for sequence, part in zip(sequences, rows, strict=True):
            if sequence.length + len(part) > sequence.capacity:
                raise ValueError(
                    f"{len(part)} embeddings of width {part.shape[1]} do not fit "
                    f"{sequence.capacity - sequence.length} free positions of width {self.width}"
                )
        return self.kernel.extend([sequence.past for sequence in sequences], rows, list(wanted))

    def _set_layer(self, tensors: Tensors, layer: int, shapes: tuple[tuple[int, int], ...]) -> None:
        prefix = f"model.layers.{layer}"
        names = [f"{prefix}.{linear}" for linear in LINEARS]
        present = set(tensors.names())
        norms = [tensors.read(f"{prefix}.{name}.weight", (self.width,)) for name in _NORMS]
        biases = [
            tensors.read(f"{name}.bias", shape[:1])
            for name, shape in zip(names[:3], shapes, strict=False)
            if f"{name}.bias" in present
        ]
        if self.precision == "fp32":
            weights = [
                tensors.read(f"{name}.weight", shape)
                for name, shape in zip(names, shapes, strict=True)
            ]
            self.kernel.set_layer(layer, norms, weights, biases)
            return
        steps, scales = [], []
        for name, (outputs, inputs) in zip(names, shapes, strict=True):
            steps.append(tensors.steps(f"{name}.weight", (outputs, inputs)))
            scales.append(tensors.read(f"{name}.scale", (outputs, -(-inputs // GROUP))))
        self.kernel.set_layer_steps(layer, norms, steps, scales, biases)


class NativeSequence:
    """One sequence: what was run through the model so far. Not for two threads at once.

    Args:
        model: Where it runs.
        capacity: Most positions it will have.

    Attributes:
        past: Keys and values.
    """

    def __init__(self, model: NativeModel, capacity: int) -> None:
        self.model = model
        self.capacity = capacity
        # The kernel has no room for nothing.
        self.past = _kernels.Past(model.kernel, max(capacity, 1))

    @property
    def length(self) -> int:
        """Positions so far."""
        return self.past.length

    def extend(
        self, embeddings: NDArray[np.float32], wanted: int | None = None
    ) -> NDArray[np.float32]:
        """Run new positions; return the hidden states of the last `wanted`, by default all."""
        count = len(embeddings) if wanted is None else wanted
        return self.model.extend_all([self], [embeddings], [count])[0]

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""
        self.past.rewind(length)

    def state(self) -> NDArray[np.float32]:
        """Return keys, then values, of all positions, [2, layers, heads, length, head_width]."""
        model = self.model
        return self.past.read().reshape(2, model.layers, model.heads, self.length, model.head_width)

    def fork(self, capacity: int | None = None) -> NativeSequence:
        """Return a sequence of its own that begins like this one."""
        other = self.model.start(max(capacity or self.capacity, self.length))
        other.past.begin_like(self.past, self.length)
        return other
