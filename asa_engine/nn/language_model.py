"""Causal language models that take embeddings: Hugging Face's decoders, run layer by layer.

Sequences are padded on the right and need no mask: attention is causal, so that what stands after
a token cannot touch it. A prefix that all items share is run once and its keys and values reused.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from asa_engine.errors import CheckpointError
from asa_engine.nn.config import LanguageModelConfig

__all__ = [
    "FAMILIES",
    "LanguageModel",
    "PrefixCache",
    "load_language_model",
    "load_tokenizer",
    "read_pretrained",
    "shape_of",
]

# Decoders of these families have the same parts: embed_tokens, layers, rotary_emb, norm.
FAMILIES = ("llama", "qwen2", "phi3", "phi4_multimodal")


class PrefixCache:
    """Keys and values of a prefix, one batch row, for each layer that it was run through.

    It stands in for Hugging Face's cache inside a decoder layer: while the prefix runs it keeps
    what it is given, afterwards it puts that in front. Gradients flow through it.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Take keys and values [B, H, T, d] of a layer; return those to attend to."""
        if layer_idx not in self._kept:
            self._kept[layer_idx] = (keys, values)
            return keys, values
        old_keys, old_values = (
            kept.expand(len(keys), *kept.shape[1:]) for kept in self._kept[layer_idx]
        )
        return torch.cat((old_keys, keys), 2), torch.cat((old_values, values), 2)


class LanguageModel(nn.Module):
    """The decoder of a causal language model and the rows of its vocabulary projection.

    Args:
        model: Hugging Face's `...ForCausalLM` of one of `FAMILIES`.
        decoder: The decoder inside, where it is not `model.model`.

    Raises:
        CheckpointError: It is of another family.
    """

    def __init__(self, model: nn.Module, decoder: nn.Module | None = None) -> None:
        super().__init__()
        hugging_face: Any = model
        core: Any = hugging_face.model if decoder is None else decoder
        family = core.config.model_type
        if family not in FAMILIES:
            raise CheckpointError(
                f"the language model is of family {family!r}",
                mend=f"choose one of {', '.join(FAMILIES)}",
            )
        self.config = shape_of(core.config)
        self.decoder = core
        self.output = hugging_face.get_output_embeddings()

    @property
    def dtype(self) -> torch.dtype:
        """Type that it computes in."""
        dtype: torch.dtype = self.decoder.norm.weight.dtype
        return dtype

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings [..., W] of token ids."""
        rows: Tensor = self.decoder.embed_tokens(ids)
        return rows

    def run_prefix(self, hidden: Tensor, first: int, last: int) -> tuple[Tensor, PrefixCache]:
        """Run a prefix [P, W] through layers `first` to `last` - 1.

        Returns:
            Its outputs [P, W], and the cache that `run` continues from.
        """
        cache = PrefixCache()
        return self._run(hidden[None], first, last, cache, start=0)[0], cache

    def run(
        self,
        hidden: Tensor,
        first: int,
        last: int,
        prefix: PrefixCache | None = None,
        start: int = 0,
    ) -> Tensor:
        """Run [B, T, W] through layers `first` to `last` - 1, after a prefix of `start` tokens."""
        return self._run(hidden, first, last, prefix, start)

    def close(self, hidden: Tensor) -> Tensor:
        """Apply the norm that follows the last layer."""
        normed: Tensor = self.decoder.norm(hidden)
        return normed

    def _run(
        self, hidden: Tensor, first: int, last: int, cache: PrefixCache | None, start: int
    ) -> Tensor:
        length = hidden.shape[1]
        positions = torch.arange(start, start + length, device=hidden.device)[None]
        rotary = self.decoder.rotary_emb(hidden, positions)
        mask = None
        if start:
            mask = torch.ones(length, start + length, dtype=torch.bool, device=hidden.device)
            mask = mask.tril(start)[None, None]
        for layer in self.decoder.layers[first:last]:
            out = layer(
                hidden,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                position_embeddings=rotary,
            )
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden


def load_language_model(source: str | Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Read a causal language model from a folder, or from the hub by name, its weights frozen.

    A folder that holds a GGUF file is read from that, its weights dequantised.

    Raises:
        CheckpointError: It is not there, cannot be read, or is of a family that is not known.
    """
    # The GGUF reader leaves a note of the quantisation behind, which no longer holds.
    model = read_pretrained(AutoModelForCausalLM, source, dtype=dtype, attn_implementation="sdpa")
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
        factory: Any = AutoModelForCausalLM
        fresh = factory.from_config(config, attn_implementation="sdpa", dtype=dtype)
        fresh.load_state_dict(model.state_dict())
        model = fresh
    return LanguageModel(model.eval().requires_grad_(False))


def load_tokenizer(source: str | Path) -> Any:
    """Read the tokenizer of a language model, like `load_language_model`."""
    return read_pretrained(AutoTokenizer, source)


def shape_of(config: Any) -> LanguageModelConfig:
    """Return the shape that a Hugging Face configuration states.

    Its `positions` are those within which one way of computing holds: LongRoPE changes the factors
    of every position once a sequence passes the original length, and sliding windows cut off what
    is further back.
    """
    positions = [config.max_position_embeddings]
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "longrope":
        positions.append(config.original_max_position_embeddings)
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        positions.append(config.sliding_window)
    return LanguageModelConfig(
        family=config.model_type,
        vocabulary=config.vocab_size,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        ffn=config.intermediate_size,
        positions=min(positions),
    )


def read_pretrained(factory: Any, source: str | Path, **options: Any) -> Any:
    """Call `factory.from_pretrained` quietly; a GGUF file in the folder is what is read.

    Raises:
        CheckpointError: It fails, for whatever reason.
    """
    files = sorted(Path(source).glob("*.gguf")) if Path(source).is_dir() else []
    if files:
        options["gguf_file"] = files[0].name
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return factory.from_pretrained(str(source), **options)
    except Exception as failure:  # transformers raises whatever its many readers raise
        raise CheckpointError(
            f"{source} cannot be read as a language model: {str(failure).splitlines()[0][:200]}",
            mend="give the folder or hub name of a causal language model; "
            "GGUF files need pip install 'asa-engine[llm]'",
        ) from None
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
