"""Folders of the real geometry of Qwen2-Audio-7B and Phi-4-multimodal, with random weights.

What they say means nothing; what it costs to export and to run them is what the published weights
cost: the same shapes, types and shards (17 and 11 GB, bfloat16). With them a grader's checkpoint
and recordings.

    python benchmarks/large_models.py qwen2-audio FOLDER
    asa-engine export FOLDER/checkpoint -o FOLDER/bundle --precision int4 \\
        --data FOLDER/recordings.jsonl
    asa-engine assess FOLDER/28s.wav --bundle FOLDER/bundle
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Phi4MultimodalConfig,
    Phi4MultimodalForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
)

SHARD_BYTES: Final = 2 * 10**9
SEED: Final = 762
SPREAD: Final = 0.02
# Labels of random weights differ by chance alone; held near each other, rounding is what moves.
OUTPUT_SPREAD: Final = 0.002
CONTROL: Final = ("<|im_start|>", "<|im_end|>")
ADAPTER_RANK: Final = 320
RATE: Final = 16_000
FAMILIES: Final = ("qwen2-audio", "phi-4")


def qwen2_audio(layers: int | None = None) -> Any:
    """Return Qwen2-Audio-7B-Instruct without weights; of so many layers, where told."""
    text = {
        "model_type": "qwen2",
        "vocab_size": 156_032,
        "hidden_size": 4096,
        "num_hidden_layers": layers or 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11_008,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
    }
    audio = {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": 128,
        "d_model": 1280,
        "encoder_layers": layers or 32,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "max_source_positions": 1500,
    }
    with torch.device("meta"):
        return Qwen2AudioForConditionalGeneration(
            Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=151_646)
        )


def phi_4(layers: int | None = None) -> Any:
    """Return Phi-4-multimodal-instruct without weights; of so many layers, where told."""
    factors = {"short_factor": [1.0] * 48, "long_factor": np.geomspace(1, 32, 48).tolist()}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75}
    some = {} if layers is None else {"num_blocks": layers}
    config = Phi4MultimodalConfig(
        vocab_size=200_064,
        hidden_size=3072,
        num_hidden_layers=layers or 32,
        num_attention_heads=24,
        num_key_value_heads=8,
        intermediate_size=8192,
        max_position_embeddings=131_072,
        original_max_position_embeddings=4096,
        tie_word_embeddings=True,
        rope_parameters={**rope, **factors},
        audio_config=some,
    )
    with torch.device("meta"):
        return Phi4MultimodalForCausalLM(config)


class Noise:
    """Random numbers of any shape, cut out of one block of them."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(SEED)
        block = self._rng.standard_normal(2**22, np.float32)
        self._block = torch.from_numpy(block)

    def __call__(self, shape: torch.Size, spread: float) -> torch.Tensor:
        """Return bfloat16 of a shape, their mean 0."""
        start = int(self._rng.integers(0, len(self._block)))
        turned = (self._block.roll(start) * spread).bfloat16()
        count = shape.numel()
        return turned.repeat(-(-count // len(turned)))[:count].reshape(shape)


def values(name: str, shape: torch.Size, noise: Noise) -> torch.Tensor:
    """Return a tensor's random values: norms and deviations near one, matrices near zero."""
    if len(shape) > 1:
        return noise(shape, OUTPUT_SPREAD if "lm_head" in name else SPREAD)
    whole = name.endswith("weight") or "invstd" in name
    return (torch.ones(shape) if whole else torch.zeros(shape)).bfloat16()


def write_model(model: Any, folder: Path) -> int:
    """Write `config.json`, a tokenizer and bfloat16 shards with their index; return the bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    noise, total = Noise(), 0
    table: dict[str, str] = {}
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    if model.config.get_text_config().tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    for index, names in enumerate(_shards(shapes)):
        file = f"model-{index + 1:05d}.safetensors"
        tensors = {_published(name): values(name, shapes[name], noise) for name in names}
        save_file(tensors, folder / file, {"format": "pt"})
        total += sum(tensor.nbytes for tensor in tensors.values())
        table |= dict.fromkeys(tensors, file)
    listed = {"metadata": {"total_size": total}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed))
    return total


def write_adapter(model: Any, folder: Path) -> None:
    """Write the adapter that Phi-4 keeps beside its weights, of the published rank."""
    noise, tensors = Noise(), {}
    for name, value in model.state_dict().items():
        if name.startswith("model.layers.") and name.endswith("_proj.weight"):
            layer = f"base_model.model.{name.removesuffix('.weight')}.lora_"
            outputs, inputs = value.shape
            tensors[f"{layer}A.weight"] = noise(torch.Size((ADAPTER_RANK, inputs)), SPREAD)
            tensors[f"{layer}B.weight"] = noise(torch.Size((outputs, ADAPTER_RANK)), 0.001)
    beside = folder / "speech-lora"
    beside.mkdir()
    save_file(tensors, beside / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "r": ADAPTER_RANK, "lora_alpha": 2 * ADAPTER_RANK}
    (beside / "adapter_config.json").write_text(json.dumps(described))


def write_recordings(folder: Path) -> None:
    """Write speech-like recordings: one to calibrate and one to judge on, and a whole chunk."""
    from asa_export.speech import synthetic_recordings

    babble = np.concatenate([item.samples() for item in synthetic_recordings()])
    lines = []
    for name, seconds, split in (
        ("a", 2, "train"),
        ("b", 2, "dev"),
        ("28s", 28, ""),
        ("85s", 85, ""),
    ):
        soundfile.write(folder / f"{name}.wav", np.resize(babble, seconds * RATE), RATE)
        if split:
            line = {"id": name, "audio": f"{name}.wav", "speaker": name, "split": split}
            lines.append(json.dumps({**line, "scores": {"total": 5}}))
    (folder / "recordings.jsonl").write_text("\n".join(lines) + "\n")


def _published(name: str) -> str:
    """Return the name that Qwen2-Audio's folder has for a tensor; Phi-4's has the class's own."""
    if name.startswith("model.language_model."):
        return "language_model.model." + name.removeprefix("model.language_model.")
    for part in ("audio_tower.", "multi_modal_projector."):
        if name.startswith(f"model.{part}"):
            return name.removeprefix("model.")
    return name


def _shards(shapes: dict[str, torch.Size]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        names.append(name)
        size += 2 * shape.numel()
        if size > SHARD_BYTES:
            yield names
            names, size = [], 0
    if names:
        yield names


def _tokenizer() -> Any:
    """Return a token for each printable character, and two for control."""
    alphabet = sorted({chr(i) for i in range(33, 127)} | {"\u0120", "\u010a"})
    vocabulary = {piece: i for i, piece in enumerate([*CONTROL, "<unk>", *alphabet])}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    factory: Any = PreTrainedTokenizerFast
    return factory(
        tokenizer_object=bare, unk_token="<unk>", additional_special_tokens=list(CONTROL)
    )


def write_checkpoint(source: Path, folder: Path) -> None:
    """Write an S3 grader on an audio language model, its adapters as training begins with them."""
    from asa_engine.graders.aspects import AspectConfig
    from asa_engine.graders.lm.prompt import build_prompt
    from asa_engine.graders.speech_llm.config import LoraConfig, SpeechLLMConfig
    from asa_engine.graders.speech_llm.model import SpeechLLM
    from asa_engine.nn.audio_language_model import AudioEncoder, load_backbones
    from asa_engine.nn.language_model import load_tokenizer

    encoder, model = load_backbones(source, source, stored=True)
    assert isinstance(encoder, AudioEncoder)
    prompt = build_prompt(
        load_tokenizer(source),
        "<|im_start|>Grade:",
        "<|im_end|>",
        tuple("ABCDEF"),
        (1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
    )
    config = SpeechLLMConfig(
        aspects=(AspectConfig("total"),),
        prompt=prompt,
        backbones={"encoder": str(source.absolute()), "language_model": str(source.absolute())},
        encoder=encoder.config,
        language_model=model.config,
        lora=LoraConfig.of(model.config.family, 16, 32.0, 0),
        stack=encoder.config.stack,
        window_s=28.0,
        chunk_s=28.0,
    )
    SpeechLLM(config, encoder, model).save(folder)


def main() -> None:
    """Write one family's folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="so many of each part (default: all)")
    args = parser.parse_args()
    model = qwen2_audio(args.layers) if args.family == "qwen2-audio" else phi_4(args.layers)
    total = write_model(model, args.folder / "model")
    if args.family == "phi-4":
        write_adapter(model, args.folder / "model")
    write_recordings(args.folder)
    write_checkpoint(args.folder / "model", args.folder / "checkpoint")
    print(f"{total / 1e9:.1f} GB of weights in {args.folder}")


if __name__ == "__main__":
    main()
