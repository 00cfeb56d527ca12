"""The acoustic grader in PyTorch: the reference that every export is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from asa_engine.errors import AudioError
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.graders.checkpoint import WEIGHTS_NAME, Saved, read_weights
from asa_engine.graders.windows import log_mel_windows
from asa_engine.nn.whisper import WhisperEncoder, frames_of

__all__ = ["AcousticGrader", "HeadOutputs", "Offline"]


# Attention logits stay within +-ATTENTION_BOUND, so that exp() of them can be summed over hours
# of frames without a running maximum, which would not be additive.
ATTENTION_BOUND = 4.0
VARIANCE_FLOOR = 1e-5
# The head sees log(frames / REFERENCE_FRAMES), in units of LOG_FRAMES_SCALE and held to the range
# seen in training: longer speech than that is judged as if it were that long.
REFERENCE_FRAMES = 175.0
LOG_FRAMES_SCALE = 0.5
LOG_FRAMES_RANGE = (-2.0, 3.5)
# Tensors stored as float16; training rounds them before anything is measured.
_HALF = ("encoder.", "kernel_projection")


class HeadOutputs(NamedTuple):
    """What the head computes.

    Attributes:
        scores: In scale units, not clipped to the scale, float32 [B, A].
        prior_probabilities: Over the prior's levels, float32 [B, L].
        prior_logits: float32 [B, L].
        hidden: Last hidden layer, float32 [B, head_width]; training's auxiliary targets use it.
    """

    scores: Tensor
    prior_probabilities: Tensor
    prior_logits: Tensor
    hidden: Tensor


class Offline(NamedTuple):
    """The reference's result for one recording.

    Attributes:
        scores: In scale units, clipped to the scale, float32 [A].
        prior_probabilities: float32 [L].
        stats: Pooled sums over all windows, float64 [K].
    """

    scores: NDArray[np.float32]
    prior_probabilities: NDArray[np.float32]
    stats: NDArray[np.float64]


class AcousticGrader(Saved):
    """Log-mel windows -> Whisper encoder -> mix of layers -> sums -> prior and scores.

    The acoustic half of the session grader (papers' system S4), without its language model: the
    acoustic proficiency prior is an MLP on the mean frame with a softmax over score levels; its
    projection joins the pooled frames in front of a multi-target regression head.

    Args:
        config: Shapes and scales.
    """

    config: AcousticConfig

    def __init__(self, config: AcousticConfig) -> None:
        super().__init__()
        self.config = config
        width, heads = config.encoder.d_model, config.attention_heads
        self.encoder = WhisperEncoder(config.encoder)
        self.layer_mix = nn.Parameter(torch.linspace(0.0, 1.5, config.encoder.layers + 1))
        self.attention = nn.Linear(width, heads)
        nn.init.normal_(self.attention.weight, std=0.02)
        nn.init.zeros_(self.attention.bias)
        self.prior_norm = nn.LayerNorm(width)
        self.prior_fc1 = nn.Linear(width, config.prior_width)
        self.prior_fc2 = nn.Linear(config.prior_width, len(config.prior_levels))
        self.prior_projector = nn.Linear(len(config.prior_levels), config.prior_embedding)
        self.pool_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 + heads))
        self.head_fc1 = nn.Linear(
            (2 + heads) * width + config.prior_embedding + 1, config.head_width
        )
        self.head_fc2 = nn.Linear(config.head_width, len(config.aspects))
        self.dropout = nn.Dropout(0.0)  # training sets it
        if config.kernel_centres:
            self._make_kernel(config)
        middle = [(a.scale_min + a.scale_max) / 2 for a in config.aspects]
        self.score_mean: Tensor
        self.blend: Tensor
        self.kernel_projection: Tensor
        self.kernel_bias: Tensor
        self.kernel_duration: Tensor
        self.kernel_centres: Tensor
        self.kernel_weights: Tensor
        self.kernel_mean: Tensor
        self.score_std: Tensor
        self.register_buffer("score_mean", torch.tensor(middle))
        self.register_buffer("score_std", torch.ones(len(config.aspects)))

    def _make_kernel(self, config: AcousticConfig) -> None:
        """Declare the kernel regressor's tensors; `training.acoustic.kernel` computes them."""
        aspects, centres, width = len(config.aspects), config.kernel_centres, config.kernel_width
        for name, shape in (
            ("blend", (aspects,)),
            ("kernel_projection", (width, config.moments_width)),
            ("kernel_bias", (width,)),
            ("kernel_duration", (1,)),
            ("kernel_centres", (centres, width + 1)),
            ("kernel_weights", (aspects, centres)),
            ("kernel_mean", (aspects,)),
        ):
            self.register_buffer(name, torch.zeros(shape))

    def encode_window(self, mel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode log-mel windows and pool them.

        Args:
            mel: Log-mel of one window an item, float32 [B, n_mels, T].
            lengths: Valid mel frames of each item, int64 [B]; None where all T count.

        Returns:
            frames [B, ceil(T / 2), D], 50 a second, and stats float32 [B, K], which may be added
            over the windows of a recording (`pool`).
        """
        layers = self.encoder(mel, lengths)
        valid = None if lengths is None else frames_of(lengths)
        frames = self.mix(layers)
        stats = self.pool(frames, valid)
        if self.config.kernel_centres:
            stats = torch.cat((stats, self.moments(layers, valid)), dim=1)
        return frames, stats

    def mix(self, layers: list[Tensor]) -> Tensor:
        """Return the softmax-weighted sum of the encoder's layer outputs, [B, T, D]."""
        weights = self.layer_mix.softmax(0)
        mixed = layers[0] * weights[0]
        for layer, weight in zip(layers[1:], weights[1:], strict=True):
            mixed = mixed + layer * weight
        return mixed

    def pool(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sum what the head needs to know of frames [B, T, D] into [B, K].

        In order: the count; sum of x; sum of x^2; for each attention head h the sum of weights
        w_h = exp(b tanh((a_h . x + c_h) / b)), b = 4; for each head the sum of w_h x.
        """
        weights = torch.exp(ATTENTION_BOUND * torch.tanh(self.attention(frames) / ATTENTION_BOUND))
        if lengths is None:
            count = frames.new_full((frames.shape[0], 1), frames.shape[1])
        else:
            valid = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
            frames = frames * valid[..., None]
            weights = weights * valid[..., None]
            count = lengths[:, None].to(frames.dtype)
        weighted = torch.matmul(weights.transpose(1, 2), frames)
        return torch.cat(
            (
                count,
                frames.sum(1),
                frames.square().sum(1),
                weights.sum(1),
                weighted.flatten(1),
            ),
            dim=1,
        )

    def moments(self, layers: list[Tensor], lengths: Tensor | None = None) -> Tensor:
        """Sum what the kernel regressor needs of the layers' outputs, each [B, T, D].

        In order: the sum over frames of each layer, h_0 (the embedded input) first; then the sum
        of squares of each: [B, 2 (layers + 1) D].
        """
        stacked = torch.stack(layers, dim=1)
        if lengths is not None:
            valid = torch.arange(stacked.shape[2], device=stacked.device) < lengths[:, None]
            stacked = stacked * valid[:, None, :, None]
        return torch.cat((stacked.sum(2).flatten(1), stacked.square().sum(2).flatten(1)), dim=1)

    def kernel_place(self, count: Tensor, moments: Tensor, duration: Tensor) -> Tensor:
        """Map summed moments to the space whose squared distances the kernel takes, [B, R + 1].

        Means and deviations of every layer, standardised and projected on principal directions
        (both folded into `kernel_projection` and `kernel_bias`), then the scaled duration.
        """
        place = F.linear(layer_profile(count, moments), self.kernel_projection, self.kernel_bias)
        return torch.cat((place, duration * self.kernel_duration), dim=1)

    def head(self, stats: Tensor) -> HeadOutputs:
        """Map summed stats, float32 [B, K], to prior and scores.

        With a kernel regressor, scores = blend * network + (1 - blend) * kernel, where kernel =
        mean + sum_i w_i exp(-|p - c_i|^2) over its centres c_i, p the recording's place: the
        posterior mean of a Gaussian process (Rasmussen and Williams 2006, equation 2.25) with its
        length scale folded into the places.
        """
        width, heads = self.config.encoder.d_model, self.config.attention_heads
        sizes = [1, width, width, heads, heads * width, self.config.moments_width]
        count, total, squares, weights, weighted, moments = torch.split(stats, sizes, dim=1)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(VARIANCE_FLOOR).sqrt()
        attended = weighted.reshape(-1, heads, width) / weights.unsqueeze(2)

        hidden = self.dropout(F.gelu(self.prior_fc1(self.prior_norm(mean))))
        prior_logits = self.prior_fc2(hidden)
        prior = prior_logits.softmax(-1)

        pooled = (mean, deviation, *attended.unbind(1))
        duration = relative_duration(count)
        features = torch.cat(
            (
                *(norm(part) for norm, part in zip(self.pool_norms, pooled, strict=True)),
                self.prior_projector(prior),
                duration,
            ),
            dim=1,
        )
        hidden = self.dropout(F.gelu(self.head_fc1(self.dropout(features))))
        scores = self.score_mean + self.score_std * self.head_fc2(hidden)
        if self.config.kernel_centres:
            place = self.kernel_place(count, moments, duration)
            # Differences first: |p|^2 - 2 p.c + |c|^2 would cancel where distances are small.
            distance = (place.unsqueeze(1) - self.kernel_centres).square().sum(2)
            kernel = F.linear(torch.exp(-distance), self.kernel_weights, self.kernel_mean)
            scores = kernel + self.blend * (scores - kernel)
        return HeadOutputs(scores, prior, prior_logits, hidden)

    @torch.inference_mode()
    def assess_samples(self, samples: NDArray[np.float32]) -> Offline:
        """Score one whole recording, window by window, in fp32.

        Args:
            samples: float32 mono at 16 kHz [n].

        Raises:
            AudioError: It is too short to frame a single window.
        """
        config = self.config
        windows = log_mel_windows(config, padded=config.window_padding == "full")
        mels = windows.push(np.ascontiguousarray(samples, dtype=np.float32))
        if (rest := windows.finish()) is not None:
            mels.append(rest)
        if not mels:
            raise AudioError("the recording is too short to be scored")
        stats = np.zeros(config.stats_width)
        for mel in mels:
            stats += self.encode_window(torch.from_numpy(mel).unsqueeze(0))[1][0].double().numpy()
        output = self.head(torch.from_numpy(stats).float().unsqueeze(0))
        low = torch.tensor([a.scale_min for a in config.aspects])
        high = torch.tensor([a.scale_max for a in config.aspects])
        scores = output.scores[0].clamp(low, high)
        return Offline(scores.numpy(), output.prior_probabilities[0].numpy(), stats)

    def round_halves(self) -> None:
        """Round what is stored as float16 to float16 values."""
        for name, value in self.state_dict().items():
            if name.startswith(_HALF):
                value.copy_(value.half().float())

    def stored(self) -> dict[str, Tensor]:
        """Return encoder and kernel's projection as float16, the rest as float32."""
        return {
            name: value.half() if name.startswith(_HALF) else value.float()
            for name, value in self.state_dict().items()
        }

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a checkpoint, in evaluation mode, weights as float32.

        Raises:
            CheckpointError: It is missing, damaged, or names, shapes or values do not fit.
        """
        folder = Path(folder)
        config = AcousticConfig.load(folder)
        with torch.device("meta"):
            grader = cls(config)
        state = read_weights(folder / WEIGHTS_NAME, grader.state_dict())
        grader.load_state_dict(state, assign=True)
        return grader.eval()


def relative_duration(count: Tensor) -> Tensor:
    """Return the frame counts [B, 1] on a log scale, held to the range seen in training."""
    duration = torch.log(count / REFERENCE_FRAMES) / LOG_FRAMES_SCALE
    return duration.clamp(*LOG_FRAMES_RANGE)


def layer_profile(count: Tensor, moments: Tensor) -> Tensor:
    """Return mean and deviation of every layer's outputs, [B, 2 (layers + 1) D]."""
    means, squares = (moments / count).chunk(2, dim=1)
    deviations = (squares - means.square()).clamp_min(VARIANCE_FLOOR).sqrt()
    return torch.cat((means, deviations), dim=1)
