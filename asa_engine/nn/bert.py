"""BERT as Hugging Face has it: read from a folder or the hub, shaped, kept quiet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from logging import ERROR
from pathlib import Path

from transformers import BertConfig, BertModel
from transformers.utils import logging

from asa_engine.errors import CheckpointError
from asa_engine.nn.config import BertShape, renamed

__all__ = ["LAYER_NORM_EPSILON", "bert_config", "load_bert", "quiet", "shape_of"]

LAYER_NORM_EPSILON = 1e-12


def load_bert(source: str | Path) -> BertModel:
    """Read Hugging Face's BERT from a folder, or from the hub by name, without its pooler.

    Its weights become float32, whatever they are stored as; it is in evaluation mode.

    Raises:
        CheckpointError: It is not there, or is not a BERT.
    """
    try:
        # Eager attention: plain sums, which is what a reference is for.
        with quiet():
            model: BertModel = BertModel.from_pretrained(
                str(source), add_pooling_layer=False, attn_implementation="eager"
            )
    except Exception as failure:  # transformers raises whatever its many readers raise
        raise CheckpointError(
            f"{source} cannot be read as a BERT: {failure}",
            hint="pass a folder or hub name of a BertModel",
        ) from None
    if model.config.model_type != "bert" or model.config.hidden_act != "gelu":
        raise CheckpointError(
            f"{source} is a {model.config.model_type} with {model.config.hidden_act}, not a BERT"
        )
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from reporting the pooler, which is left out on purpose."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(ERROR)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


# Field of the shape -> Hugging Face's name.
_NAMES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "positions": "max_position_embeddings",
    "segments": "type_vocab_size",
}


def shape_of(config: BertConfig) -> BertShape:
    """Return the shape that a Hugging Face configuration states."""
    return BertShape(**renamed(config, _NAMES))


def bert_config(shape: BertShape) -> BertConfig:
    """Return Hugging Face's configuration of a shape."""
    return BertConfig(
        **{theirs: getattr(shape, ours) for ours, theirs in _NAMES.items()},
        layer_norm_eps=LAYER_NORM_EPSILON,
        attn_implementation="eager",  # type: ignore[call-arg]  # taken by the base class
    )
