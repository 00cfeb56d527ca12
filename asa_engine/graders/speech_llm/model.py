"""The speech LLM in PyTorch: the reference that every export is compared with."""

from __future__ import annotations

from collections.abc import Sequence
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
    add_adapters,
    check_backbones,
    open_backbones,
    read_tuned,
)
from asa_engine.graders.lm.windows import cut
from asa_engine.graders.speech_llm.config import SpeechLLMConfig
from asa_engine.graders.speech_llm.prior_model import Prior, sums_of
from asa_engine.nn.audio_language_model import AudioEncoder, AudioProjector
from asa_engine.nn.language_model import LanguageModel, PrefixCache
from asa_engine.nn.lora import LoraLinear, lora_parameters
from asa_engine.nn.whisper import WhisperEncoder

__all__ = ["Graded", "Prefix", "Projector", "SpeechLLM"]


class Graded(NamedTuple):
    """The reference's result for one recording.

    Attributes:
        scores: In scale units, held to the scale, float32 [A].
        chunks: The same of each chunk, not held to the scale, float32 [C, A].
        probabilities: Of each chunk's labels, float32 [C, K]; K is 0 for a regression.
    """

    scores: NDArray[np.float32]
    chunks: NDArray[np.float32]
    probabilities: NDArray[np.float32]


class Prefix(NamedTuple):
    """The prompt's beginning, run through some layers.

    Attributes:
        hidden: What left the last of them, [P, W].
        cache: Its keys and values in each.
    """

    hidden: Tensor
    cache: PrefixCache


class Projector(nn.Module):
    """Encoder frames -> audio tokens: mix of layers, norm, stack, two linear layers, norm.

    The last norm gives tokens the size of the language model's own embeddings.

    Args:
        config: Shapes.
        embedding_rms: Root mean square of the language model's embeddings.
    """

    def __init__(self, config: SpeechLLMConfig, embedding_rms: float = 1.0) -> None:
        super().__init__()
        width, inner = config.encoder.d_model, config.projector_width
        self.stack = config.stack
        self.layer_mix = nn.Parameter(torch.linspace(0.0, 1.5, config.encoder.layers + 1))
        self.frame_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width * config.stack, inner)
        self.fc2 = nn.Linear(inner, config.language_model.width)
        self.norm = nn.RMSNorm(config.language_model.width, eps=1e-5)
        nn.init.constant_(self.norm.weight, embedding_rms)
        self.dropout = nn.Dropout(0.0)  # training sets it

    def forward(self, layers: Tensor, lengths: Tensor) -> Tensor:
        """Map the encoder's layer outputs of windows to audio tokens.

        Args:
            layers: [B, layers + 1, T, D].
            lengths: Valid frames of each window, int64 [B]; the rest becomes zero after the norm.

        Returns:
            [B, ceil(T / stack), W]; those past `tokens_of` each length are of no meaning.
        """
        frames = torch.einsum("l,bltd->btd", self.layer_mix.softmax(0), layers)
        valid = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        frames = self.frame_norm(frames) * valid[..., None]
        frames = F.pad(frames, (0, 0, 0, -frames.shape[1] % self.stack))
        stacked = frames.reshape(len(frames), -1, self.stack * frames.shape[2])
        hidden = self.dropout(F.gelu(self.fc1(self.dropout(stacked))))
        tokens: Tensor = self.norm(self.fc2(hidden))
        return tokens

    def tokens_of(self, lengths: Tensor) -> Tensor:
        """Return how many audio tokens come of so many frames."""
        return (lengths + self.stack - 1) // self.stack


class SpeechLLM(Checkpointed):
    """Windows -> audio encoder -> projector -> language model with adapters -> answer.

    [prefix][audio tokens][suffix]; the answer is read at the suffix's last token: the label
    tokens' logits, or a linear layer on the hidden state (system S3).

    Args:
        config: Shapes, prompt, scales.
        encoder: With its weights; it is frozen. An audio language model's own brings its
            projector, which is frozen, too.
        language_model: With its weights; adapters are added to it.

    Raises:
        CheckpointError: A backbone is not of the configured shape.
    """

    config: SpeechLLMConfig

    def __init__(
        self,
        config: SpeechLLMConfig,
        encoder: WhisperEncoder | AudioEncoder,
        language_model: LanguageModel,
    ) -> None:
        super().__init__()
        check_backbones(config, encoder, language_model)
        self.config = config
        self.encoder = encoder.requires_grad_(False)
        self.language_model = language_model.requires_grad_(False)
        self.projector = self._projector(encoder)
        aspects = len(config.aspects)
        regression = config.answer == "regression"
        self.head = nn.Linear(config.language_model.width, aspects) if regression else None
        self.prior = Prior(config)
        self.codebook: nn.Parameter | None = None
        if config.units:
            entries = torch.zeros(config.units, config.language_model.width)
            self.codebook = nn.Parameter(entries, requires_grad=False)
        add_adapters(language_model, config.lora)

    def _projector(self, encoder: WhisperEncoder | AudioEncoder) -> Projector | AudioProjector:
        width = self.config.language_model.width
        if isinstance(encoder, WhisperEncoder):
            return Projector(self.config, self.language_model.embedding_rms())
        if (outputs := encoder.projector.linears[-1].out_features) != width:
            raise CheckpointError(
                f"the {encoder.config.family} encoder makes audio tokens of width {outputs}, the "
                f"language model takes {width}",
                hint="name the same model for both",
            )
        return encoder.projector

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        return self.config.language_model.layers

    def tuned(self) -> dict[str, nn.Parameter]:
        """Return what training makes, by name: projector, adapters, head, prior, codebook."""
        adapters = {f"language_model.{k}": v for k, v in lora_parameters(self.language_model)}
        ours = {
            name: parameter
            for name, parameter in self.named_parameters()  # a borrowed projector is `encoder.`
            if name.startswith(("projector.", "head.", "prior.", "codebook"))
        }
        return {**ours, **adapters}

    def set_dropout(self, projector: float, lora: float) -> None:
        """Set the dropout of training."""
        if isinstance(self.projector, Projector):
            self.projector.dropout.p = projector
        for module in self.language_model.modules():
            if isinstance(module, LoraLinear):
                module.dropout.p = lora

    def audio_tokens(self, layers: Tensor, lengths: Tensor, owner: Tensor) -> list[Tensor]:
        """Project windows and join those of each recording.

        Args:
            layers: Encoder outputs of windows, [B, layers + 1, T, D].
            lengths: Valid frames of each, int64 [B].
            owner: Which recording each is of, int64 [B], ascending, without gaps.

        Returns:
            Audio tokens [n, W] of each recording.
        """
        tokens = self.projector(layers, lengths)
        counts = self.projector.tokens_of(lengths).tolist()
        by_recording: list[list[Tensor]] = [[] for _ in range(int(owner[-1]) + 1)]
        for row, count, at in zip(tokens, counts, owner.tolist(), strict=True):
            by_recording[at].append(row[:count])
        return [self.rounded(torch.cat(parts)) for parts in by_recording]

    def rounded(self, tokens: Tensor) -> Tensor:
        """Return audio tokens [n, W] as the nearest entries of the codebook, if there is one."""
        return tokens if self.codebook is None else self.codebook[self.units(tokens)]

    def units(self, tokens: Tensor) -> Tensor:
        """Return the units, int64 [n], of audio tokens [n, W]: the nearest entries of the codebook.

        Raises:
            ValueError: The grader has no codebook.
        """
        if self.codebook is None:
            raise ValueError("this grader has no units")
        # |t - c|^2 without |t|^2, which all entries share.
        near: Tensor = tokens @ self.codebook.T - self.codebook.square().sum(1) / 2
        return near.argmax(-1)

    def chunks(self, tokens: Tensor) -> list[Tensor]:
        """Cut a recording's audio tokens [n, W] into those of its chunks."""
        whole = self.config.chunk_windows * self.config.window_tokens
        parts = list(torch.split(tokens, whole))
        if len(parts) > 1 and len(parts[-1]) < self.config.min_chunk_tokens:
            parts.pop()
        return parts

    def prefix(self, first: int, last: int, hidden: Tensor | None = None) -> Prefix:
        """Run the prompt's beginning through layers `first` to `last` - 1.

        Args:
            first: 0, or where `hidden` left off.
            last: The layer to stop before.
            hidden: Output of layer `first` - 1, [P, W]; None takes the embeddings.
        """
        if hidden is None:
            hidden = self.language_model.embed(self._ids(self.config.prompt.prefix_ids))
        return Prefix(*self.language_model.run_prefix(hidden, first, last))

    def sequences(self, chunks: Sequence[Tensor]) -> list[Tensor]:
        """Return what follows the prefix for each chunk: audio tokens, then the suffix."""
        suffix = self.language_model.embed(self._ids(self.config.prompt.suffix_ids))
        return [torch.cat((chunk.to(suffix.dtype), suffix)) for chunk in chunks]

    def run(
        self, sequences: Sequence[Tensor], first: int, last: int, prefix: Prefix
    ) -> list[Tensor]:
        """Run sequences [n, W] after a prefix through layers `first` to `last` - 1."""
        batch = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
        start = len(self.config.prompt.prefix_ids)
        hidden = self.language_model.run(batch, first, last, prefix.cache, start)
        return [row[: len(item)] for row, item in zip(hidden, sequences, strict=True)]

    def answer(self, hidden: Sequence[Tensor]) -> Tensor:
        """Read the answers off the last layer's outputs, each [n, W].

        Returns:
            Logits of the label tokens, or standardised scores of a regression, float32 [B, K].
        """
        last = self.language_model.close(torch.stack([item[-1] for item in hidden]))
        if self.head is not None:
            scores: Tensor = self.head(last.float())
            return scores
        rows = self.language_model.output_rows(self._ids(self.config.prompt.label_ids))
        return F.linear(last.float(), rows.float())

    def scores(self, answer: Tensor) -> Tensor:
        """Return scores in scale units, not held to the scale, [B, A], of answers [B, K]."""
        if self.head is not None:
            low = answer.new_tensor([a.scale_min for a in self.config.aspects])
            high = answer.new_tensor([a.scale_max for a in self.config.aspects])
            # The head works in halves of the scale around its middle.
            return (low + high) / 2 + answer * (high - low) / 2
        labels = answer.new_tensor(self.config.prompt.label_scores)
        if self.config.answer == "hard":
            return labels[answer.argmax(-1)][:, None]
        return (answer.softmax(-1) @ labels)[:, None]

    def forward(self, layers: Tensor, lengths: Tensor, owner: Tensor) -> Tensor:
        """Answer recordings of one chunk each; arguments as of `audio_tokens`, [B, K]."""
        prefix = self.prefix(0, self.layers)
        sequences = self.sequences(self.audio_tokens(layers, lengths, owner))
        answer = self.answer(self.run(sequences, 0, self.layers, prefix))
        if not self.config.prior.centres:
            return answer
        windows = sums_of(layers, lengths).double()
        sums = windows.new_zeros(len(answer), windows.shape[1]).index_add(0, owner, windows)
        return self.prior.pool(answer, self.prior(sums))

    @torch.inference_mode()
    def assess_samples(self, samples: NDArray[np.float32]) -> Graded:
        """Score one whole recording.

        Args:
            samples: float32 mono at 16 kHz [n].

        Raises:
            AudioError: It is too short to frame a single window.
        """
        config, mels = self.config, self.mels(samples)
        if not mels:
            raise AudioError("the recording is too short to be scored")
        windows = [self.window(mel) for mel in mels]
        prefix = self.prefix(0, self.layers)
        answers = []
        parts = self.chunks(torch.cat([tokens for tokens, _ in windows]))
        for at, sequence in enumerate(self.sequences(parts)):
            answer = self.answer(self.run([sequence], 0, self.layers, prefix))
            if config.prior.centres:
                start = at * config.chunk_windows
                some = [sums for _, sums in windows[start : start + config.chunk_windows]]
                answer = self.prior.pool(answer, self.prior(torch.stack(some).sum(0)[None]))
            answers.append(answer[0])
        answer = torch.stack(answers)
        chunks = self.scores(answer)
        low = chunks.new_tensor([a.scale_min for a in config.aspects])
        high = chunks.new_tensor([a.scale_max for a in config.aspects])
        labels = answer.softmax(-1) if self.head is None else answer[:, :0]
        return Graded(
            chunks.mean(0).clamp(low, high).numpy(), chunks.numpy(), labels.float().numpy()
        )

    def mels(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the log-mel windows [n_mels, T] of samples [n]; none where they frame none."""
        cutter = cut(self.config)
        mels = cutter.push(np.ascontiguousarray(samples, dtype=np.float32))
        rest = cutter.finish()
        return mels if rest is None else [*mels, rest]

    def window(self, mel: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Return the audio tokens [n, W] of a window [n_mels, T], and its sums, float64 [1 + M]."""
        layers = torch.stack(self.encoder(torch.from_numpy(mel)[None]), 1)
        lengths = torch.tensor([layers.shape[2]])
        tokens = self.rounded(self.projector(layers, lengths)[0])
        return tokens, sums_of(layers, lengths)[0].double()

    def _ids(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor(ids, dtype=torch.long)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        encoder: str | Path | None = None,
        language_model: str | Path | None = None,
    ) -> Self:
        """Read a checkpoint and its backbones, in evaluation mode, weights as float32.

        Args:
            folder: The checkpoint.
            encoder: Folder of a Whisper, or folder or hub name of an audio language model; by
                default the backbone that it names.
            language_model: Folder or hub name; by default the backbone that it names.

        Raises:
            CheckpointError: Something is missing or damaged; a label is not the one token that
                the checkpoint says; the weights are of other backbones, or not finite.
        """
        config = SpeechLLMConfig.load(folder)
        backbones = open_backbones(config, encoder, language_model)
        grader = cls(config, backbones.encoder, backbones.language_model)
        tensors = read_tuned(Path(folder) / WEIGHTS_NAME, grader.tuned())
        grader.load_state_dict(tensors, strict=False)
        return grader.eval()
