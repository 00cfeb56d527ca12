"""The session grader (system S4) in PyTorch: prior token, all responses, one regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from asa_engine.bundle import WEIGHTS_NAME
from asa_engine.errors import AudioError, CheckpointError
from asa_engine.graders.lm.checkpoint import (
    Checkpointed,
    backbone_source,
    open_backbones,
    read_tuned,
)
from asa_engine.graders.lm.prompt import encode_template
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.graders.speech_llm_session.config import OVERALL, SessionConfig
from asa_engine.graders.speech_llm_session.windows import Mels, SessionWindows
from asa_engine.nn.audio_language_model import AudioEncoder
from asa_engine.nn.language_model import LanguageModel
from asa_engine.nn.weights import load_whisper_encoder
from asa_engine.nn.whisper import WhisperEncoder

__all__ = ["AcousticPrior", "Heard", "SessionGraded", "SessionLLM"]


class Heard(NamedTuple):
    """What the encoder and the projector make of a response, or of one window of it.

    Attributes:
        tokens: Audio tokens, [n, W].
        total: Sum of the encoder's last-layer frames, float64 [D].
        frames: How many of these there are.
    """

    tokens: Tensor
    total: Tensor
    frames: int


class SessionGraded(NamedTuple):
    """The reference's result for one session.

    Attributes:
        scores: Part -> score held to its scale, and `overall`; parts of which nothing was heard
            have none.
        missing: Those parts, in their order.
        predicted_overall: What the head itself says for `overall`, before the prior has its share;
            reported is the parts' mean.
        prior_probabilities: Of the prior's levels, float32 [L].
    """

    scores: dict[str, float]
    missing: tuple[str, ...]
    predicted_overall: float
    prior_probabilities: NDArray[np.float32]


class AcousticPrior(nn.Module):
    """Mean encoder frame -> two-layer MLP -> softmax over levels -> one embedding (system S4).

    Args:
        config: Shapes.
        embedding_rms: Root mean square of the language model's embeddings.
    """

    def __init__(self, config: SessionConfig, embedding_rms: float = 1.0) -> None:
        super().__init__()
        width, levels = config.prior_encoder.d_model, len(config.prior.levels)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.prior.width)
        self.fc2 = nn.Linear(config.prior.width, levels)
        self.projector = nn.Linear(levels, config.speech.language_model.width)
        nn.init.normal_(self.projector.weight, std=embedding_rms)
        nn.init.zeros_(self.projector.bias)
        self.dropout = nn.Dropout(0.0)  # training sets it

    def forward(self, mean: Tensor) -> Tensor:
        """Return the levels' logits [B, L] of mean last-layer frames [B, D]."""
        logits: Tensor = self.fc2(self.dropout(F.gelu(self.fc1(self.norm(mean)))))
        return logits

    def embed(self, logits: Tensor) -> Tensor:
        """Return the prior's embeddings [B, W]."""
        embedding: Tensor = self.projector(logits.softmax(-1))
        return embedding


class SessionLLM(Checkpointed):
    """A speech LLM that hears a whole session at once and scores its parts.

    Args:
        config: Parts, prior, prompt, shapes.
        encoder: With its weights; it is frozen. An audio language model's own brings its
            projector, which is frozen, too.
        language_model: With its weights; adapters are added to it.
        prior_encoder: What the prior hears with, frozen; None where that is `encoder`.

    Raises:
        CheckpointError: A backbone is not of the configured shape.
    """

    config: SessionConfig

    def __init__(
        self,
        config: SessionConfig,
        encoder: WhisperEncoder | AudioEncoder,
        language_model: LanguageModel,
        prior_encoder: WhisperEncoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        if (stated := prior_encoder and prior_encoder.config) != config.prior.encoder:
            raise CheckpointError(
                f"the checkpoint's prior wants a Whisper of {config.prior.encoder}, this is "
                f"{stated}",
                hint=f"fetch {config.prior.backbone!r} again",
            )
        self.prior_encoder = prior_encoder and prior_encoder.requires_grad_(False)
        self.speech = SpeechLLM(config.speech, encoder, language_model)
        self.prior = AcousticPrior(config, language_model.embedding_rms())

    def tuned(self) -> dict[str, nn.Parameter]:
        """Return what training changes, by name: the speech LLM's, and the prior."""
        speech = {f"speech.{name}": value for name, value in self.speech.tuned().items()}
        return {**speech, **{f"prior.{k}": v for k, v in self.prior.named_parameters()}}

    def sequence(self, responses: Mapping[str, Sequence[Tensor]], prior: Tensor | None) -> Tensor:
        """Lay a session out as embeddings, [T, W].

        Args:
            responses: Part -> audio tokens [n, W] of each of its responses.
            prior: The prior's embedding, [W]; `None` leaves it out, to see what it is worth.
        """
        config, prompt = self.config, self.config.speech.prompt
        body = [self._embed(prompt.prefix_ids)]
        for part in config.parts:
            body.append(self._embed(part.heading_ids))
            heard = responses.get(part.name, ())
            for tokens in heard:
                body += [tokens, self._embed(config.between_ids)]
            if not heard:
                body.append(self._embed(config.missing_ids))
        if prior is not None:
            body.insert(0 if config.prior.position == "first" else len(body), prior[None])
        body.append(self._embed(prompt.suffix_ids))
        dtype = self.speech.language_model.dtype
        return torch.cat([item.to(dtype) for item in body])

    def answer(self, sequences: Sequence[Tensor]) -> Tensor:
        """Return scores in scale units, not held to the scale, [B, A], of sequences [T, W]."""
        lengths = [len(item) for item in sequences]
        if min(lengths) <= self.config.speech.language_model.positions < max(lengths):
            # A sequence's own length tells how its positions are turned, not its neighbours'.
            return torch.cat([self.answer([item]) for item in sequences])
        batch = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
        hidden = self.speech.language_model.run(batch, 0, self.speech.layers)
        rows = [row[: len(item)] for row, item in zip(hidden, sequences, strict=True)]
        return self.speech.scores(self.speech.answer(rows))

    @torch.inference_mode()
    def assess(self, session: Mapping[str, Sequence[NDArray[np.float32]]]) -> SessionGraded:
        """Score one session.

        A response too short to frame a window is as if it were not there. A part of which nothing
        is left is told to the language model as missing and gets no score; the overall score is
        the mean over the other parts.

        Args:
            session: Part -> its responses, float32 mono at 16 kHz each.

        Raises:
            AudioError: There is a part that the grader does not know, there are too many
                responses, there is too much audio, or nothing was heard at all.
        """
        self._check(session)
        heard: dict[str, list[Tensor]] = {}
        total, count = torch.zeros(self.config.prior_encoder.d_model, dtype=torch.float64), 0
        for name, responses in session.items():
            for samples in responses:
                response = self.hear(samples)
                if response is None:
                    continue
                heard.setdefault(name, []).append(response.tokens)
                total += response.total
                count += response.frames
        if not count:
            raise AudioError("nothing in this session is long enough to be scored")
        logits = self.prior((total / count).float()[None])
        sequence = self.sequence(heard, self.prior.embed(logits)[0])
        said = self.answer([sequence])[0]
        aspects = {aspect.name: aspect for aspect in self.config.aspects}
        shares = logits.softmax(-1)[0]
        pooled = self.config.pooled(said.double().numpy(), shares.double().numpy())
        values = dict(zip(aspects, pooled.tolist(), strict=True))
        scores = {
            part.name: min(
                max(values[part.name], aspects[part.name].scale_min), aspects[part.name].scale_max
            )
            for part in self.config.parts
            if part.name in heard
        }
        scores[OVERALL] = sum(scores.values()) / len(scores)
        missing = tuple(part.name for part in self.config.parts if part.name not in heard)
        return SessionGraded(scores, missing, float(said[-1]), shares.numpy())

    def _check(self, session: Mapping[str, Sequence[NDArray[np.float32]]]) -> None:
        config = self.config
        known = [part.name for part in config.parts]
        if unknown := sorted(session.keys() - set(known)):
            raise AudioError(
                f"the session has a part {unknown[0]!r}", hint=f"parts are {', '.join(known)}"
            )
        count = sum(len(responses) for responses in session.values())
        if count > config.max_responses:
            raise AudioError(
                f"the session has {count} responses", hint=f"at most {config.max_responses}"
            )
        seconds = sum(len(s) for responses in session.values() for s in responses) / 16_000
        if seconds > config.max_audio_s:
            raise AudioError(
                f"the session holds {seconds:.0f} s of audio",
                hint=f"at most {config.max_audio_s:g} s",
            )

    @torch.inference_mode()
    def hear(self, samples: NDArray[np.float32]) -> Heard | None:
        """Encode one response, float32 mono at 16 kHz; `None` where it is too short."""
        windows = [self.hear_window(mels) for mels in SessionWindows(self.config).cut(samples)]
        if not windows:
            return None
        return Heard(
            torch.cat([window.tokens for window in windows]),
            torch.stack([window.total for window in windows]).sum(0),
            sum(window.frames for window in windows),
        )

    @torch.inference_mode()
    def hear_window(self, mels: Mels) -> Heard:
        """Encode one window."""
        layers = self.speech.encoder(torch.from_numpy(mels.speech)[None])
        lengths = torch.tensor([layers[-1].shape[1]])
        tokens = self.speech.projector(torch.stack(layers, 1), lengths)[0]
        if self.prior_encoder is not None and mels.prior is not None:
            layers = self.prior_encoder(torch.from_numpy(mels.prior)[None])
        return Heard(tokens, layers[-1][0].double().sum(0), layers[-1].shape[1])

    def _embed(self, ids: Sequence[int]) -> Tensor:
        return self.speech.language_model.embed(torch.tensor(ids, dtype=torch.long))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        encoder: str | Path | None = None,
        language_model: str | Path | None = None,
    ) -> Self:
        """Read a checkpoint and its backbones, like `SpeechLLM.load`."""
        config = SessionConfig.load(folder)
        backbones = open_backbones(config.speech, encoder, language_model)
        _check_texts(config, backbones.tokenizer)
        beside = None
        if config.prior.encoder is not None:
            if not config.prior.backbone:
                raise CheckpointError("the checkpoint names no Whisper for its prior")
            source = backbone_source(config.prior.backbone)
            beside = load_whisper_encoder(source, config.prior.encoder.positions)
        grader = cls(config, backbones.encoder, backbones.language_model, beside)
        tensors = read_tuned(Path(folder) / WEIGHTS_NAME, grader.tuned())
        grader.load_state_dict(tensors, strict=False)
        return grader.eval()


def _check_texts(config: SessionConfig, tokenizer: object) -> None:
    texts = [(part.heading, part.heading_ids) for part in config.parts]
    texts += [(config.between, config.between_ids), (config.missing, config.missing_ids)]
    for text, ids in texts:
        if encode_template(tokenizer, text) != ids:
            raise CheckpointError(
                f"the tokens of {text!r} are not those of this language model's tokenizer",
                hint="use the language model that the checkpoint was trained with",
            )
