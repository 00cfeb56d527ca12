"""Causal language models that take embeddings: Hugging Face's decoders, run layer by layer.

Sequences are padded on the right and need no mask: attention is causal, so that what stands after
a token cannot touch it. A prefix that all items share is run once and its keys and values reused.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
from transformers.utils import logging

from asa_engine.backbones.stored import INDEX_NAME, read_stored
from asa_engine.errors import CheckpointError
from asa_engine.nn.config import LanguageModelConfig, renamed
from asa_engine.nn.kept import kept
from asa_engine.nn.speech_adapter import find_speech_adapter, merge_speech_adapter
from asa_engine.nn.stored_layers import StoredEmbedding, StoredLinear, open_stored

__all__ = [
    "FAMILIES",
    "LanguageModel",
    "PrefixCache",
    "cache_argument",
    "load_language_model",
    "load_tokenizer",
    "read_pretrained",
    "shape_of",
    "sharing",
]

WITH_ADAPTERS = ("phi4_multimodal",)
# Decoders of these families have the same parts: embed_tokens, layers, rotary_emb, norm.
FAMILIES = ("llama", "qwen2", "phi3", "phi4_multimodal")
_SAMPLED_ROWS = 4096
_TURNING = threading.Lock()
"""LongRoPE keeps the frequencies of the length at hand in a buffer that threads would share."""


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
                hint=f"choose one of {', '.join(FAMILIES)}",
            )
        self.config = shape_of(core.config)
        self.decoder = core
        self.output = hugging_face.get_output_embeddings()
        self._cache_argument = cache_argument(core.layers[0])

    @property
    def dtype(self) -> torch.dtype:
        """Type that it computes in."""
        dtype: torch.dtype = self.decoder.norm.weight.dtype
        return dtype

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings [..., W] of token ids."""
        rows: Tensor = self.decoder.embed_tokens(ids)
        return rows

    def output_rows(self, ids: Tensor) -> Tensor:
        """Return rows [n, W] of the vocabulary projection."""
        if isinstance(self.output, StoredLinear):
            return self.output.rows(ids)
        rows: Tensor = self.output.weight[ids]
        return rows

    def embedding_rms(self) -> float:
        """Return the root mean square of the embeddings; of some thousand rows, if they are large.

        It is the size that a projector's tokens begin with.
        """
        table = self.decoder.embed_tokens
        if isinstance(table, StoredEmbedding):
            step = max(1, table.num_embeddings // _SAMPLED_ROWS)
            rows = table(torch.arange(0, table.num_embeddings, step))
        else:
            rows = table.weight.float()
        return float(rows.square().mean().sqrt())

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
        """Run [B, T, W] through layers `first` to `last` - 1, after a prefix of `start` tokens.

        `start` + T decides for all of them, as in Hugging Face's class, which regime of LongRoPE
        holds; a prefix that was run alone is of the first.
        """
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
        with _TURNING:
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
                use_cache=cache is not None,
                position_embeddings=rotary,
                **{self._cache_argument: cache},
            )
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden


def cache_argument(module: nn.Module) -> str:
    """Return the name under which a decoder or its layer takes keys and values.

    transformers 5.23 and older say `past_key_values`, newer ones `cache`.
    """
    names = inspect.signature(module.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def sharing(model: LanguageModel) -> LanguageModel:
    """Return a model of its own on the same weights: adapters may be added to it, at their cost."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def load_language_model(
    source: str | Path, dtype: torch.dtype | None = torch.float32, *, stored: bool = False
) -> LanguageModel:
    """Read a causal language model from a folder, or from the hub by name, its weights frozen.

    A folder that holds a GGUF file is read from that, its weights dequantised. Inside
    `asa_engine.nn.kept.keep_loaded` all models of one source share their weights, which nobody
    may then change in place.

    Args:
        source: Folder or name.
        dtype: What it computes in; `None` for the type that its weights are stored in.
        stored: Leave its matrices in the folder (`asa_engine.nn.stored_layers`).

    Raises:
        CheckpointError: It is not there, cannot be read, or is of a family that is not known.
    """
    if stored:
        return LanguageModel(open_stored(AutoModelForCausalLM, Path(source)))
    model = kept((str(source), dtype), partial(_read_language_model, source, dtype))
    shared = {id(parameter): parameter for parameter in model.parameters()}
    return LanguageModel(copy.deepcopy(model, shared))


def _read_language_model(source: str | Path, dtype: torch.dtype | None) -> nn.Module:
    if dtype is None and any(Path(source).glob("*.gguf")):
        dtype = torch.float32  # what its weights become
    # The GGUF reader leaves a note of the quantisation behind, which no longer holds.
    model: nn.Module = read_pretrained(
        AutoModelForCausalLM, source, dtype=dtype or "auto", attn_implementation="sdpa"
    )
    config: Any = copy.deepcopy(model.config)
    if config.model_type in WITH_ADAPTERS and (beside := find_speech_adapter(source)):
        merge_speech_adapter(model, source, beside)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
        factory: Any = AutoModelForCausalLM
        fresh = factory.from_config(config, attn_implementation="sdpa", dtype=model.dtype)
        fresh.load_state_dict(model.state_dict())
        model = fresh
    return model.eval().requires_grad_(False)


def load_tokenizer(source: str | Path) -> Any:
    """Read the tokenizer of a language model, like `load_language_model`."""
    return read_pretrained(AutoTokenizer, source)


# Field of the shape -> Hugging Face's name.
_NAMES = {
    "family": "model_type",
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "key_value_heads": "num_key_value_heads",
    "ffn": "intermediate_size",
}


def shape_of(config: Any) -> LanguageModelConfig:
    """Return the shape that a Hugging Face configuration states.

    Its `positions` are those within which one way of computing holds: LongRoPE changes the factors
    of every position once a sequence passes the original length, and sliding windows cut off what
    is further back.
    """
    whole = config.max_position_embeddings
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        whole = min(whole, config.sliding_window)
    shape = LanguageModelConfig(**renamed(config, _NAMES), positions=whole)
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "longrope":
        first = config.original_max_position_embeddings
        if first < whole:
            return replace(shape, positions=first, long_positions=whole)
    return shape


def read_pretrained(factory: Any, source: str | Path, **options: Any) -> Any:
    """Call `factory.from_pretrained` quietly; a GGUF file in the folder is what is read.

    Raises:
        CheckpointError: It fails, for whatever reason.
    """
    folder = Path(source)
    files = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
    if files:
        options["gguf_file"] = files[0].name
    elif (folder / INDEX_NAME).is_file():
        read_stored(folder)
    options["trust_remote_code"] = False  # left open, transformers asks at the terminal
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with _without_gguf_bar():
            return factory.from_pretrained(str(source), **options)
    except Exception as failure:  # transformers raises whatever its many readers raise
        raise CheckpointError(
            f"{source} cannot be read as a language model: {str(failure).splitlines()[0][:200]}",
            hint="give the folder or hub name of a causal language model; "
            "GGUF files need pip install 'asa-engine[llm]'",
        ) from None
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _without_gguf_bar() -> Iterator[None]:
    """Silence the bar of transformers' GGUF reader, which heeds no setting of transformers."""
    reader: Any = modeling_gguf_pytorch_utils
    bar = getattr(reader, "tqdm", None)
    if bar is None:  # a release that draws none there
        yield
        return
    reader.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar
