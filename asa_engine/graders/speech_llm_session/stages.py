"""The session grader's stages at run time: windows heard, prior told, the session read.

The encoder runs on the project's kernels, and so may the language model; projector and prior on
ONNX Runtime; what reads the scores off the last hidden state is a few rows, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from asa_engine.artifacts.safetensors import Tensors
from asa_engine.graders.speech_llm.stages import ClipAudioStage
from asa_engine.graders.speech_llm_session.config import SessionConfig
from asa_engine.graders.speech_llm_session.windows import Mels
from asa_engine.kernels.dense import matrix_vector
from asa_engine.kernels.encoder import Encoder
from asa_engine.language_model.opening import open_model
from asa_engine.language_model.reading_modes import PriorReading
from asa_engine.runtimes.onnxruntime import OnnxRuntime, session

if TYPE_CHECKING:
    import torch

    from asa_engine.graders.speech_llm_session.model import SessionLLM

__all__ = [
    "HeardWindow",
    "Reading",
    "SessionStages",
    "SessionTexts",
    "Stages",
    "TorchSessionStages",
    "text_ids",
]

_ENCODER_PRECISION: Mapping[str, str] = {"fp32": "fp32", "int8": "int8", "int4": "int8"}


class HeardWindow(NamedTuple):
    """What a window leaves behind.

    Attributes:
        tokens: Audio tokens, float32 [n, W].
        total: Sum of the encoder's last-layer frames, float64 [D].
        frames: How many of these there are.
    """

    tokens: NDArray[np.float32]
    total: NDArray[np.float64]
    frames: int


class SessionTexts(NamedTuple):
    """Embeddings of what stands around the audio, float32 [n, W] each.

    Attributes:
        prefix: Before the first part.
        headings: Before each part, in their order.
        between: After a response.
        missing: For a part of which nothing was heard.
        suffix: After the last part.
    """

    prefix: NDArray[np.float32]
    headings: tuple[NDArray[np.float32], ...]
    between: NDArray[np.float32]
    missing: NDArray[np.float32]
    suffix: NDArray[np.float32]

    @classmethod
    def cut(cls, config: SessionConfig, rows: NDArray[np.float32]) -> Self:
        """Cut the rows of `text_ids`, [N, W], into the texts they are."""
        prompt = config.speech.prompt
        lengths = [
            len(prompt.prefix_ids),
            *(len(part.heading_ids) for part in config.parts),
            len(config.between_ids),
            len(config.missing_ids),
        ]
        prefix, *headings, between, missing, suffix = np.split(rows, np.cumsum(lengths))
        return cls(prefix, tuple(headings), between, missing, suffix)


class Reading(Protocol):
    """One session in front of the language model; see `PriorReading`."""

    @property
    def count(self) -> int:
        """Rows taken so far, without the prior's."""

    def add(self, rows: NDArray[np.float32], prior: NDArray[np.float64] | None = None) -> None:
        """Take what comes next, float32 [n, W]; the prior is that of all the audio so far."""

    def rewind(self, count: int) -> None:
        """Forget the rows taken after the first `count`."""

    def answer(
        self, prior: NDArray[np.float64], rest: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the last hidden state [W], were `rest` what is left; go on after it."""


class Stages(Protocol):
    """Everything that scores a session, loaded and ready; used by any number of threads."""

    @property
    def texts(self) -> SessionTexts:
        """What stands around the audio."""

    def hear(self, mels: Mels) -> HeardWindow:
        """Encode one window."""

    def probabilities(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the prior [L] of a mean last-layer frame [D]."""

    def start(self, mode: str, tolerance: float) -> Reading:
        """Begin a session, its prefix read."""

    def read(self, hidden: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the head's scores [A] of a hidden state [W], in halves of the scales."""

    def versions(self) -> dict[str, str]:
        """Return the libraries that the scores depend on."""


def text_ids(config: SessionConfig) -> list[int]:
    """Return the tokens of all texts, in the order that `SessionTexts.cut` takes them."""
    prompt = config.speech.prompt
    headings = [token for part in config.parts for token in part.heading_ids]
    return [
        *prompt.prefix_ids,
        *headings,
        *config.between_ids,
        *config.missing_ids,
        *prompt.suffix_ids,
    ]


class SessionStages:
    """The stages of a bundle.

    Args:
        config: The grader's configuration.
        files: `encoder`: tensors of the Whisper encoder, or the graph of an audio language
            model's own, and then `prior_encoder`, tensors of the prior's; `projector`, `prior` and
            `language_model`: graphs; `head`: tensors `layer_weights` [layers + 1] of a Whisper
            that is projected; `texts` [N, W],
            the rows of `text_ids`; `levels` [L, W], the prior's levels as embeddings;
            `answer.weight` [A, W]; `answer.bias` [A]; where it is kept, `prefix`, keys and values
            of the prompt's beginning [2, layers, heads, P, head_width], run at float32 whatever
            the variant.
        precision: `fp32`, `int8` or `int4`.
        threads: Threads that one call may use.

    Raises:
        BackendError: ONNX Runtime cannot load a graph.
        BundleError: The language model's file holds none.
        CheckpointError: A tensor is missing or of another shape.
        UsageError: The longest session does not fit the language model or the memory limit.
    """

    def __init__(
        self, config: SessionConfig, files: Mapping[str, Path], *, precision: str, threads: int
    ) -> None:
        self._decoder = open_model(files["language_model"], threads=threads)
        self._decoder.check(config.longest_sequence)
        self._longest = config.longest_sequence
        speech, tensors = config.speech, Tensors(files["head"])
        width, aspects = speech.language_model.width, len(config.aspects)
        self._texts = SessionTexts.cut(
            config, tensors.read("texts", (len(text_ids(config)), width))
        )
        self._levels = tensors.read("levels", (len(config.prior.levels), width))
        self._weight = tensors.read("answer.weight", (aspects, width)).astype(np.float64)
        self._bias = tensors.read("answer.bias", (aspects,)).astype(np.float64)
        self._prefix: NDArray[np.float32] | None = None
        if config.keeps_beginning:
            decoder, count = self._decoder, len(speech.prompt.prefix_ids)
            shape = (2, decoder.layers, decoder.heads, count, decoder.head_width)
            self._prefix = tensors.read("prefix", shape)
        self._clips: ClipAudioStage | None = None
        if config.prior.encoder is None:
            mix = tensors.read("layer_weights", (speech.encoder.layers + 1,))
            self._layer_weights = mix.tolist()
            self._projector = session(files["projector"], threads)
        else:
            self._layer_weights = [0.0] * config.prior.encoder.layers + [1.0]
            encoder, projector = files["encoder"], files["projector"]
            self._clips = ClipAudioStage(speech, encoder, projector, threads=threads)
        whisper = files["prior_encoder" if self._clips else "encoder"]
        self._encoder = Encoder(
            config.prior_encoder,
            Tensors(whisper).read,
            precision=_ENCODER_PRECISION[precision],
            threads=threads,
        )
        self._prior = session(files["prior"], 1)

    @property
    def texts(self) -> SessionTexts:
        """What stands around the audio."""
        return self._texts

    def hear(self, mels: Mels) -> HeardWindow:
        """Encode a window, sum the prior's last layer and project frames."""
        seen = mels.speech if mels.prior is None else mels.prior
        ((frames, moments),) = self._encoder.encode_with_moments([seen], self._layer_weights)
        if self._clips is not None:
            tokens = self._clips.window(mels.speech).tokens
        else:
            tokens = self._projector.run(["tokens"], {"frames": frames})[0]
        total = moments.reshape(2, -1)[0, -frames.shape[1] :].astype(np.float64)
        return HeardWindow(tokens, total, len(frames))

    def probabilities(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the prior [L] of a mean last-layer frame [D]."""
        outputs = self._prior.run(["probabilities"], {"mean": mean.astype(np.float32)[np.newaxis]})
        prior: NDArray[np.float64] = outputs[0][0].astype(np.float64)
        return prior

    def start(self, mode: str, tolerance: float) -> Reading:
        """Begin a session, its prefix read."""
        reading = PriorReading(
            self._decoder,
            self._levels,
            self._texts.suffix,
            mode=mode,
            capacity=self._longest,
            tolerance=tolerance,
            beginning=self._prefix,
        )
        if self._prefix is None:
            reading.add(self._texts.prefix)
        return reading

    def read(self, hidden: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the head's scores [A] of a hidden state [W], in halves of the scales."""
        return matrix_vector(self._weight, hidden.astype(np.float64)) + self._bias

    def versions(self) -> dict[str, str]:
        """Return ONNX Runtime's version."""
        return OnnxRuntime.availability().versions


class TorchSessionStages:
    """The PyTorch reference behind the same interface; it computes a session when asked for it."""

    def __init__(self, grader: SessionLLM) -> None:
        import torch

        self.grader = grader
        with torch.inference_mode():
            rows = grader.speech.language_model.embed(torch.tensor(text_ids(grader.config)))
        self._texts = SessionTexts.cut(grader.config, rows.numpy())

    @property
    def texts(self) -> SessionTexts:
        """What stands around the audio."""
        return self._texts

    def hear(self, mels: Mels) -> HeardWindow:
        """Encode a window, sum the prior's last layer and project frames."""
        tokens, total, frames = self.grader.hear_window(mels)
        return HeardWindow(tokens.numpy(), total.numpy(), frames)

    def probabilities(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the prior [L] of a mean last-layer frame [D]."""
        import torch

        with torch.inference_mode():
            logits = self.grader.prior(torch.from_numpy(mean).float()[None])
            prior: NDArray[np.float64] = logits.softmax(-1)[0].double().numpy()
        return prior

    def start(self, mode: str, tolerance: float) -> Reading:
        """Begin a session; whatever the mode, it is read as a whole."""
        reading = _TorchReading(self.grader)
        reading.add(self._texts.prefix)
        return reading

    def read(self, hidden: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the head's scores [A] of a hidden state [W], in halves of the scales."""
        import torch

        head = self.grader.speech.head
        assert head is not None
        with torch.inference_mode():
            scores: NDArray[np.float64] = head(torch.from_numpy(hidden)).double().numpy()
        return scores

    def versions(self) -> dict[str, str]:
        """Return the versions of PyTorch and transformers."""
        return {name: metadata.version(name) for name in ("torch", "transformers")}


class _TorchReading:
    def __init__(self, grader: SessionLLM) -> None:
        import torch

        self._grader = grader
        self._rows = torch.zeros(0, grader.config.speech.language_model.width)

    @property
    def count(self) -> int:
        return len(self._rows)

    def add(self, rows: NDArray[np.float32], prior: NDArray[np.float64] | None = None) -> None:
        self._rows = self._joined(rows)

    def rewind(self, count: int) -> None:
        self._rows = self._rows[:count]

    def answer(
        self, prior: NDArray[np.float64], rest: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        import torch

        grader = self._grader
        model, prompt = grader.speech.language_model, grader.config.speech.prompt
        with torch.inference_mode():
            body = self._rows if rest is None else self._joined(rest)
            token = grader.prior.projector(torch.from_numpy(prior).float())[None]
            first = grader.config.prior.position == "first"
            suffix = model.embed(torch.tensor(prompt.suffix_ids))
            sequence = torch.cat([token, body, suffix] if first else [body, token, suffix])
            hidden = model.close(model.run(sequence[None], 0, grader.speech.layers)[0, -1])
            answer: NDArray[np.float32] = hidden.float().numpy()
        return answer

    def _joined(self, rows: NDArray[np.float32]) -> torch.Tensor:
        import torch

        return torch.cat((self._rows, torch.from_numpy(rows)))
