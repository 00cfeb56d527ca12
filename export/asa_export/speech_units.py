"""A speech LLM's language model over units, as CTranslate2's stock generator runs it.

What a sequence can hold becomes the vocabulary, the rows of the answer its projection. At int8,
scales of activations' channels are folded into norms and weights first (SmoothQuant), which changes
nothing in exact arithmetic and makes CTranslate2's own rounding, one scale a row, cost less.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from asa_engine.errors import BundleError
from asa_engine.graders.speech_llm.model import SpeechLLM
from asa_engine.graders.speech_llm.unit_stages import unit_vocabulary
from asa_export.language_model_quantize import Int8Decoder

__all__ = ["unit_ids", "write_units"]

_KINDS: Final = {"fp32": None, "int8": "int8"}


def write_units(
    grader: SpeechLLM, answer: Tensor, folder: Path, precision: str, smooth: Int8Decoder | None
) -> str:
    """Write the language model, adapters merged.

    Args:
        grader: The reference, its adapters merged into the weights.
        answer: Rows of the answer, float32 [K, W].
        folder: Where the model's folder goes.
        precision: `fp32` or `int8`.
        smooth: Folds channels' scales into the weights; None leaves them.

    Returns:
        The model's file, below the folder that holds `folder`.

    Raises:
        BundleError: The grader has no codebook, or its language model is not a Llama.
    """
    from ctranslate2.converters.transformers import LlamaLoader

    if grader.codebook is None:
        raise BundleError(
            "CTranslate2's generator takes tokens, and this grader's audio is none",
            hint="train a grader with units, or export to onnx",
        )
    if grader.config.language_model.family != "llama":
        raise BundleError(
            f"units are exported for Llama, not {grader.config.language_model.family}",
            hint="export to onnx",
        )
    model = _with_units(grader, grader.codebook)
    if smooth is not None:
        _fold(model, smooth)
    vocabulary, epsilon = unit_vocabulary(grader.config), model.config.rms_norm_eps
    spec: Any = LlamaLoader().get_model_spec(model)
    # A copy: quantising rounds it where it is.
    spec.decoder.projection.weight = answer.detach().float().numpy().copy()
    spec.register_vocabulary(vocabulary)
    spec.config.layer_norm_epsilon = epsilon
    spec.config.unk_token = spec.config.bos_token = spec.config.eos_token = vocabulary[0]
    spec.validate()
    spec.optimize(quantization=_KINDS[precision])
    target = folder / f"ctranslate2-{precision}"
    target.mkdir()
    spec.save(str(target))
    return f"{folder.name}/{target.name}/model.bin"


def unit_ids(grader: SpeechLLM, sequence: Tensor) -> list[int]:
    """Return CTranslate2's tokens of a whole sequence.

    Args:
        grader: The reference.
        sequence: What follows the prompt's beginning: entries of the codebook, then the prompt's
            end, float32 [n, W].
    """
    before, after = (
        len(ids) for ids in (grader.config.prompt.prefix_ids, grader.config.prompt.suffix_ids)
    )
    units = grader.units(sequence[: len(sequence) - after]) + before + after
    return [*range(before), *units.tolist(), *range(before, before + after)]


def _with_units(grader: SpeechLLM, codebook: Tensor) -> LlamaForCausalLM:
    """Return the language model with the table of tokens that a sequence can hold."""
    model, prompt = grader.language_model, grader.config.prompt
    ids = torch.tensor((*prompt.prefix_ids, *prompt.suffix_ids), dtype=torch.long)
    table = torch.cat((model.embed(ids), codebook)).detach()
    config = copy.deepcopy(model.decoder.config)
    config.vocab_size, config.tie_word_embeddings = len(table), False
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    made = LlamaForCausalLM(config)
    made.train(False)
    made.requires_grad_(False)
    state = {f"model.{name}": value for name, value in model.decoder.state_dict().items()}
    state["model.embed_tokens.weight"] = state["lm_head.weight"] = table
    made.load_state_dict(state)
    return made


def _fold(model: LlamaForCausalLM, smooth: Int8Decoder) -> None:
    """Move channels' scales from activations into weights, in place."""
    for name, value in model.named_parameters():
        outputs, inputs = smooth.scales(name)
        if value.ndim == 1:
            value.copy_(torch.from_numpy(value.double().numpy() / outputs))
        else:
            folded = value.double().numpy() / outputs.reshape(-1, 1) * inputs
            value.copy_(torch.from_numpy(folded))
