"""Prompts as tokens: control tokens where the recipe puts them, never out of anyone's text."""

from __future__ import annotations

from typing import Any

from asa_engine.errors import CheckpointError
from asa_engine.graders.lm.shapes import PromptConfig

__all__ = ["build_prompt", "check_labels", "encode_template"]


def encode_template(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the tokens of a recipe's own text, in which control tokens are what they say."""
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def build_prompt(
    tokenizer: Any,
    prefix: str,
    suffix: str,
    labels: tuple[str, ...] = (),
    label_scores: tuple[float, ...] = (),
) -> PromptConfig:
    """Tokenise a prompt.

    Raises:
        CheckpointError: A label is not one token of its own.
    """
    return PromptConfig(
        prefix=prefix,
        suffix=suffix,
        labels=labels,
        label_scores=label_scores,
        prefix_ids=encode_template(tokenizer, prefix),
        suffix_ids=encode_template(tokenizer, suffix),
        label_ids=tuple(_label_id(tokenizer, label) for label in labels),
    )


def check_labels(prompt: PromptConfig, tokenizer: Any) -> None:
    """Check that labels and prompt are still the tokens that a checkpoint was trained with.

    Raises:
        CheckpointError: A label is several tokens, or something is other tokens here.
    """
    built = build_prompt(
        tokenizer, prompt.prefix, prompt.suffix, prompt.labels, prompt.label_scores
    )
    if built != prompt:
        raise CheckpointError(
            "the prompt's tokens are not those of this language model's tokenizer",
            hint="use the language model that the checkpoint was trained with",
        )


def _label_id(tokenizer: Any, label: str) -> int:
    ids = encode_template(tokenizer, label)
    if len(ids) != 1:
        raise CheckpointError(
            f"the label {label!r} is {len(ids)} tokens of this language model; it must be one",
            hint="choose labels that are single tokens, such as letters",
        )
    return ids[0]
