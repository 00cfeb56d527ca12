"""What the kernels compute, in plain NumPy and float64: the truth they are tested against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from asa_engine.nn.config import WhisperDecoderConfig, WhisperEncoderConfig

__all__ = [
    "attend",
    "best_path",
    "decode",
    "encode",
    "force",
    "gelu",
    "head",
    "layer_norm",
    "log_mel",
    "mel_filters",
    "pool",
]

Array = NDArray[np.float64]

SAMPLE_RATE = 16_000
N_FFT = 400
HOP = 160


def mel_filters(n_mels: int) -> NDArray[np.float64]:
    """Return Slaney's area-normalised triangular filters from 0 to 8 kHz, [201, n_mels]."""

    def to_mel(hertz: float) -> float:
        return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)

    mel = np.linspace(0, to_mel(SAMPLE_RATE / 2), n_mels + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hertz = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)[:, None]
    triangle = np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre))
    filters: NDArray[np.float64] = np.maximum(triangle, 0) * 2 / (high - low)
    return filters


def log_mel(samples: NDArray[np.float32], n_mels: int = 80) -> NDArray[np.float32]:
    """Compute Whisper's log-mel spectrogram of one window; see `asa_engine.kernels.log_mel`."""
    if samples.ndim != 1 or len(samples) <= N_FFT // 2:
        raise ValueError(f"samples must be [n] with n > {N_FFT // 2}")
    padded = np.pad(samples.astype(np.float64), N_FFT // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    power = np.abs(np.fft.rfft(frames[: len(samples) // HOP] * hann)) ** 2
    log_power = np.log10(np.maximum(power @ mel_filters(n_mels), 1e-10)).T
    floored: NDArray[np.float64] = np.maximum(log_power, log_power.max() - 8)
    return ((floored + 4) / 4).astype(np.float32)


def gelu(x: Array) -> Array:
    """Return x (1 + erf(x / sqrt 2)) / 2."""
    erf = np.vectorize(math.erf, otypes=[np.float64])
    result: Array = x / 2 * (1 + erf(x / math.sqrt(2)))
    return result


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    """Normalise the last axis; epsilon 1e-5."""
    centred = x - x.mean(-1, keepdims=True)
    result: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias
    return result


def convolve(x: Array, weight: Array, bias: Array, stride: int) -> Array:
    """Convolve [T, C] with [D, C, 3], one zero frame on either side: [ceil(T / stride), D]."""
    padded = np.pad(x, ((1, 1), (0, 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=0)[::stride]
    result: Array = np.einsum("tck,dck->td", frames, weight) + bias
    return result


def attend(
    q: Array, k: Array, v: Array, heads: int, length: int | None = None, reach: int | None = None
) -> Array:
    """Attend head by head, [T, D]; see `asa_engine.kernels.attention.attend`."""
    width = q.shape[1] // heads
    frame = np.arange(len(q))
    seen = np.broadcast_to(frame < (len(q) if length is None else length), (len(q), len(q)))
    if reach is not None:
        seen = seen & (np.abs(frame[:, None] - frame) <= reach)
    out = np.empty_like(v)
    for head in (slice(i * width, (i + 1) * width) for i in range(heads)):
        score = np.where(seen, q[:, head] @ k[:, head].T / math.sqrt(width), -np.inf)
        top = np.where(seen.any(1, keepdims=True), score.max(1, keepdims=True), 0.0)
        weight = np.exp(score - top)
        out[:, head] = weight / np.maximum(weight.sum(1, keepdims=True), 1e-300) @ v[:, head]
    return out


def encode(
    config: WhisperEncoderConfig,
    tensors: Mapping[str, NDArray[np.float32]],
    mel: NDArray[np.float32],
) -> list[Array]:
    """Encode one log-mel window with Whisper's encoder (Radford et al. 2022, section 2.2).

    Args:
        config: The encoder's shape.
        tensors: Its weights by Hugging Face's names.
        mel: [n_mels, T].

    Returns:
        `layers + 1` arrays [ceil(T / 2), d_model]: the embedded input, then each layer's output,
        the last one after the closing LayerNorm.
    """

    def weights(name: str) -> tuple[Array, Array]:
        weight = tensors[f"{name}.weight"].astype(np.float64)
        return weight, tensors.get(f"{name}.bias", np.zeros(len(weight))).astype(np.float64)

    def linear(name: str, x: Array) -> Array:
        weight, bias = weights(name)
        result: Array = x @ weight.T + bias
        return result

    x = gelu(convolve(mel.T.astype(np.float64), *weights("conv1"), stride=1))
    x = gelu(convolve(x, *weights("conv2"), stride=2))
    x = x + tensors["embed_positions.weight"][: len(x)]
    outputs = [x]
    for layer in (f"layers.{i}" for i in range(config.layers)):
        y = layer_norm(x, *weights(f"{layer}.self_attn_layer_norm"))
        q, k, v = (linear(f"{layer}.self_attn.{name}_proj", y) for name in "qkv")
        x = x + linear(f"{layer}.self_attn.out_proj", attend(q, k, v, config.heads))
        y = layer_norm(x, *weights(f"{layer}.final_layer_norm"))
        x = x + linear(f"{layer}.fc2", gelu(linear(f"{layer}.fc1", y)))
        outputs.append(x)
    outputs[-1] = layer_norm(x, *weights("layer_norm"))
    return outputs


def softmax(x: Array) -> Array:
    """Return the softmax of the last axis."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    result: Array = powers / powers.sum(-1, keepdims=True)
    return result


def decode(
    config: WhisperDecoderConfig,
    tensors: Mapping[str, NDArray[np.float32]],
    frames: NDArray[np.float32],
    tokens: Sequence[int],
) -> tuple[Array, Array]:
    """Run Whisper's text decoder over N tokens (Radford et al. 2022, section 2.2).

    Args:
        config: The decoder's shape.
        tensors: Its weights by CTranslate2's names.
        frames: The encoder's, [T, d_model].
        tokens: The first ones of the text.

    Returns:
        States after the closing LayerNorm, [N, d_model], whose products with the embeddings are
        the logits; and the shares of frames that each head attended, [N, layers * heads, T].
    """
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def norm(x: Array, name: str) -> Array:
        return layer_norm(x, w[f"{name}/gamma"], w[f"{name}/beta"])

    def linear(x: Array, name: str) -> Array:
        result: Array = x @ w[f"{name}/weight"].T + w[f"{name}/bias"]
        return result

    def context(q: Array, k: Array, v: Array, seen: NDArray[np.bool_]) -> tuple[Array, Array]:
        q, k, v = (x.reshape(len(x), config.heads, -1).swapaxes(0, 1) for x in (q, k, v))
        scores = np.where(seen, q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]), -np.inf)
        shares = softmax(scores)
        return (shares @ v).swapaxes(0, 1).reshape(q.shape[1], -1), shares

    count = len(tokens)
    causal, everywhere = np.tril(np.ones((count, count), bool)), np.ones((count, len(frames)), bool)
    x = w["embeddings/weight"][list(tokens)] + w["position_encodings/encodings"][:count]
    attended = []
    for layer in (f"layer_{i}" for i in range(config.layers)):
        self_attention, attention, ffn = (f"{layer}/{n}" for n in _DECODER_PARTS)
        qkv = linear(norm(x, f"{self_attention}/layer_norm"), f"{self_attention}/linear_0")
        q, k, v = np.split(qkv, 3, 1)
        x = x + linear(context(q, k, v, causal)[0], f"{self_attention}/linear_1")
        q = linear(norm(x, f"{attention}/layer_norm"), f"{attention}/linear_0")
        k, v = np.split(linear(frames.astype(np.float64), f"{attention}/linear_1"), 2, 1)
        seen, shares = context(q, k, v, everywhere)
        attended.append(shares)
        x = x + linear(seen, f"{attention}/linear_2")
        inner = gelu(linear(norm(x, f"{ffn}/layer_norm"), f"{ffn}/linear_0"))
        x = x + linear(inner, f"{ffn}/linear_1")
    return norm(x, "layer_norm"), np.concatenate(attended).swapaxes(0, 1)


_DECODER_PARTS = ("self_attention", "attention", "ffn")


def force(
    config: WhisperDecoderConfig,
    tensors: Mapping[str, NDArray[np.float32]],
    frames: NDArray[np.float32],
    tokens: Sequence[int],
    prompt: int,
    heads: Sequence[int],
) -> dict[str, Array]:
    """Judge a text that is forced on the decoder; see `asa_engine.kernels.decoder.Forced`.

    `log_p` beside it are all log-probabilities, [N, tokens].
    """
    states, attended = decode(config, tensors, frames, tokens[:-1])
    states, attended = states[prompt - 1 :], attended[prompt - 1 :]
    logits = states @ tensors["embeddings/weight"].astype(np.float64).T
    rows, targets = np.arange(len(logits)), np.asarray(tokens[prompt:])
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    own = log_p[rows, targets]
    others = log_p.copy()
    others[rows, targets] = -np.inf
    shares = np.where(attended > 0, attended, 1.0)
    return {
        "own": own,
        "best": others.max(1),
        "other": others.argmax(1),
        "rank": (log_p > own[:, None]).sum(1),
        "entropy": -(np.exp(log_p) * log_p).sum(1),
        "attended": attended[:, list(heads)].mean(1) if heads else np.zeros_like(attended[:, 0]),
        "attended_entropy": -(shares * np.log(shares)).sum(2).mean(1),
        "attended_peak": attended.max(2).mean(1),
        "states": states,
        "log_p": log_p,
    }


def best_path(
    log_probabilities: NDArray[np.float32],
    emits: Sequence[int],
    optional: Sequence[bool],
    whole: bool = True,
) -> tuple[NDArray[np.int64], float]:
    """Find the likeliest path; see `asa_engine.kernels.viterbi.best_path`."""
    emitted = log_probabilities[:, list(emits)].astype(np.float64)
    count = emitted.shape[1]
    skips = np.full(count, -np.inf)
    skips[2:][np.asarray(optional, bool)[1:-1]] = 0.0
    best = np.full(count, -np.inf)
    best[:2] = emitted[0, :2]
    steps = np.zeros(emitted.shape, np.int64)
    ways = np.full((3, count), -np.inf)
    for frame in range(1, len(emitted)):
        ways[0] = best
        ways[1, 1:] = best[:-1]
        ways[2, 2:] = best[:-2] + skips[2:]
        steps[frame] = ways.argmax(0)
        best = ways.max(0) + emitted[frame]
    state = count - 1 if best[-1] >= best[-2] else count - 2
    if not whole:
        state = int(best.argmax())
    if best[state] == -np.inf:
        return np.empty(0, np.int64), -math.inf
    score = float(best[state])
    path = np.empty(len(emitted), np.int64)
    for frame in range(len(emitted) - 1, -1, -1):
        path[frame] = state
        state -= int(steps[frame, state])
    return path, score


def pool(frames: Array, weight: Array, bias: Array) -> Array:
    """Sum frames for the head; see `asa_engine.kernels.encoder.pool`."""
    w = np.exp(4 * np.tanh((frames @ weight.T + bias) / 4))
    sums = (frames.sum(0), (frames**2).sum(0), w.sum(0), (w.T @ frames).ravel())
    return np.concatenate([[len(frames)], *sums])


def head(
    weights: Mapping[str, NDArray[np.float32]], stats: NDArray[np.float32]
) -> tuple[Array, Array]:
    """Compute scores and prior; see `asa_engine.kernels.head.Head`."""
    w = {name: weight.astype(np.float64) for name, weight in weights.items()}
    width, norms = len(w["prior_norm.bias"]), sum(name.startswith("pool_norms.") for name in w) // 2
    heads = norms - 2
    count, total, squares, attention, weighted, moments = np.split(
        stats.astype(np.float64), np.cumsum([1, width, width, heads, heads * width])
    )

    def linear(name: str, x: Array) -> Array:
        result: Array = w[f"{name}.weight"] @ x + w[f"{name}.bias"]
        return result

    def deviation(mean: Array, square: Array) -> Array:
        result: Array = np.sqrt(np.maximum(square - mean**2, 1e-5))
        return result

    mean = total / count
    attended = weighted.reshape(heads, width) / attention[:, None]
    normal = layer_norm(mean, w["prior_norm.weight"], w["prior_norm.bias"])
    logits = linear("prior_fc2", gelu(linear("prior_fc1", normal)))
    prior = np.exp(logits - logits.max())
    prior /= prior.sum()
    pooled = [
        layer_norm(part, w[f"pool_norms.{i}.weight"], w[f"pool_norms.{i}.bias"])
        for i, part in enumerate((mean, deviation(mean, squares / count), *attended))
    ]
    duration = (np.log(count / 175) / 0.5).clip(-2, 3.5)
    features = np.concatenate([*pooled, linear("prior_projector", prior), duration])
    hidden = gelu(linear("head_fc1", features))
    scores = w["score_mean"] + w["score_std"] * linear("head_fc2", hidden)
    if "kernel_centres" in w:
        means, squares = np.split(moments / count, 2)
        profile = np.concatenate([means, deviation(means, squares)])
        place = np.append(
            w["kernel_projection"] @ profile + w["kernel_bias"], duration * w["kernel_duration"]
        )
        near = np.exp(-((w["kernel_centres"] - place) ** 2).sum(1))
        scores = w["blend"] * scores + (1 - w["blend"]) * (
            w["kernel_weights"] @ near + w["kernel_mean"]
        )
    return scores, prior
