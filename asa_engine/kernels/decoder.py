"""Whisper's text decoder on the compiled kernels, token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asa_engine import _kernels
from asa_engine.kernels import isa
from asa_engine.nn.config import WhisperDecoderConfig

__all__ = ["PRECISIONS", "Decoder"]

PRECISIONS: Final = ("fp32", "int8")

Read = Callable[[str, tuple[int, ...]], NDArray[np.float32]]
"""Returns a tensor by its name in CTranslate2's files, of the shape asked for, or raises."""


class Decoder:
    """A Whisper decoder of any size, its weights packed for this CPU. Not for two threads at once.

    Args:
        config: Its shape.
        read: Where the weights come from; each is read once.
        precision: `fp32`, or `int8`: weights in 8 bits, one scale for every 128 inputs of a row,
            keys and values of the speech in bfloat16 where the CPU has it.

    Raises:
        ValueError: There is no such precision.
        BackendError: `ASA_CPU_ISA` names an instruction set this CPU lacks.
    """

    def __init__(self, config: WhisperDecoderConfig, read: Read, *, precision: str) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; it must be one of {PRECISIONS}")
        isa()
        self.config = config
        width, inner = config.d_model, config.ffn
        self._decoder = _kernels.Decoder(
            width,
            config.heads,
            inner,
            config.layers,
            config.tokens,
            config.positions,
            precision,
        )
        self._decoder.set_embeddings(
            [
                read("embeddings/weight", (config.tokens, width)),
                read("position_encodings/encodings", (config.positions, width)),
            ]
        )
        norm = {"layer_norm/gamma": (width,), "layer_norm/beta": (width,)}
        shapes: dict[str, tuple[int, ...]] = {}
        for part, linears in {
            "self_attention": [(3 * width, width), (width, width)],
            "attention": [(width, width), (2 * width, width), (width, width)],
            "ffn": [(inner, width), (width, inner)],
        }.items():
            shapes |= {f"{part}/{name}": shape for name, shape in norm.items()}
            for index, shape in enumerate(linears):
                shapes[f"{part}/linear_{index}/weight"] = shape
                shapes[f"{part}/linear_{index}/bias"] = shape[:1]
        for layer in range(config.layers):
            self._decoder.set_layer(
                layer, [read(f"layer_{layer}/{name}", shape) for name, shape in shapes.items()]
            )
        self._decoder.set_final_norm([read(name, shape) for name, shape in norm.items()])

    def start(self, frames: NDArray[np.float32]) -> None:
        """Take speech to be decoded, and forget what was decoded before.

        Args:
            frames: The encoder's, float32 [T, d_model].

        Raises:
            ValueError: Another shape, NaN or infinity.
        """
        self._decoder.start(np.ascontiguousarray(frames, dtype=np.float32))

    def step(self, token: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the next token.

        Returns:
            The logits of the token after it, [tokens], and what each head attended of the speech,
            [layers * heads, T], rows that sum to 1.

        Raises:
            ValueError: There is no such token.
            RuntimeError: No speech was given, or there is no position left.
        """
        logits, attended = self._decoder.step(token)
        return logits[0], attended
