"""Whisper's text decoder on the compiled kernels: token by token, or a whole text at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asa_engine import _kernels
from asa_engine.kernels import isa
from asa_engine.nn.config import WhisperDecoderConfig

__all__ = ["PRECISIONS", "Decoder", "Forced", "Read", "ReadRows"]

PRECISIONS: Final = ("fp32", "int8")

Read = Callable[[str, tuple[int, ...]], NDArray[np.float32]]
"""Returns a tensor by its name in CTranslate2's files, of the shape asked for, or raises."""

ReadRows = Callable[[str, tuple[int, ...], int, int], NDArray[np.float32]]
_TOKENS: Final = 1024
"""How many tokens' embeddings are packed at once: the kernels take a multiple of it."""


class Forced(NamedTuple):
    """What a decoder says of N tokens that it is made to write over T frames of speech.

    Attributes:
        own: Log-probability of each token, float32 [N].
        best: That of the likeliest other token, float32 [N].
        other: Which that is, int32 [N].
        rank: How many tokens are likelier than the one judged, int32 [N].
        entropy: Of the distribution over all tokens, in nats, float32 [N].
        attended: What the chosen heads attended of the speech, their mean, float32 [N, T].
        attended_entropy: Entropy of what a head attended, in nats, mean over all, float32 [N].
        attended_peak: A head's largest share, mean over all, float32 [N].
        states: What the tokens are told from, after the closing LayerNorm, float32 [N, d_model].
    """

    own: NDArray[np.float32]
    best: NDArray[np.float32]
    other: NDArray[np.int32]
    rank: NDArray[np.int32]
    entropy: NDArray[np.float32]
    attended: NDArray[np.float32]
    attended_entropy: NDArray[np.float32]
    attended_peak: NDArray[np.float32]
    states: NDArray[np.float32]


class Decoder:
    """A Whisper decoder of any size, its weights packed for this CPU. Not for two threads at once.

    Args:
        config: Its shape.
        read: Where the weights come from; each is read once.
        precision: `fp32`, or `int8`: weights in 8 bits, one scale for every 128 inputs of a row,
            keys and values of the speech in bfloat16 where the CPU has it.
        rows: Reads some rows of a tensor: (name, its shape, first, end). Where it is given, the
            tokens' embeddings, which are most of the weights, are never whole in float32.

    Raises:
        ValueError: There is no such precision.
        BackendError: `ASA_CPU_ISA` names an instruction set this CPU lacks.
    """

    def __init__(
        self,
        config: WhisperDecoderConfig,
        read: Read,
        *,
        precision: str,
        rows: ReadRows | None = None,
    ) -> None:
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
        self._set_tokens(read, rows)
        self._decoder.set_positions(read("position_encodings/encodings", (config.positions, width)))
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

    def _set_tokens(self, read: Read, rows: ReadRows | None) -> None:
        name, shape = "embeddings/weight", (self.config.tokens, self.config.d_model)
        whole = read(name, shape) if rows is None else np.empty(0, np.float32)
        for first in range(0, shape[0], _TOKENS):
            end = min(first + _TOKENS, shape[0])
            part = whole[first:end] if rows is None else rows(name, shape, first, end)
            self._decoder.set_tokens(first, part)

    def start(self, frames: NDArray[np.float32]) -> None:
        """Take speech to be decoded, and forget what was decoded before.

        Frames that begin like those given last cost only what is new: while speech comes in, giving
        what there is so far leaves little to do at its end. The results are the same bits.

        Args:
            frames: The encoder's, float32 [T, d_model].

        Raises:
            ValueError: Another shape or type, NaN or infinity.
        """
        if frames.dtype != np.float32:
            raise ValueError(f"frames must be float32 [T, d_model], not {frames.dtype}")
        self._decoder.start(np.ascontiguousarray(frames))

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

    def force(self, tokens: Sequence[int], prompt: int, heads: Sequence[int] = ()) -> Forced:
        """Judge a text that the decoder is made to write, all its tokens in one pass.

        Row i tells of `tokens[prompt + i]`, given the speech and the tokens before it. The logits
        of all tokens are never held: memory grows with rows times 1,024. What `step` ran before is
        forgotten.

        Args:
            tokens: The prompt, the text, and whatever ends it.
            prompt: How many of them are the prompt, and not judged; 1 or more.
            heads: Those whose attention is wanted, layer * heads + head.

        Returns:
            What it says of the `len(tokens) - prompt` tokens behind the prompt.

        Raises:
            ValueError: A token or head that there is not, no token to judge, or more than there are
                positions.
            RuntimeError: No speech was given.
        """
        return Forced(*self._decoder.force(list(tokens), prompt, list(heads)))
