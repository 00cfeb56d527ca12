"""Read weights out of CTranslate2's `model.bin`, without CTranslate2 or PyTorch."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asa_engine.errors import CheckpointError
from asa_engine.nn.config import WhisperDecoderConfig

__all__ = [
    "LAYER_NAMES",
    "ct2_decoder_config",
    "read_ct2_decoder",
    "read_ct2_encoder",
    "read_ct2_variables",
]

SUPPORTED_FORMAT_VERSION = 6
MAX_FILE_BYTES = 8 << 30
MAX_RANK = 8

# Type ids as CTranslate2 numbers them. bfloat16 (5) has no NumPy type and no use here.
_DTYPES: dict[int, np.dtype] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}


# Hugging Face name -> CTranslate2 name, within one layer. Attention's q, k, v are fused there.
LAYER_NAMES = {
    "self_attn_layer_norm.weight": "self_attention/layer_norm/gamma",
    "self_attn_layer_norm.bias": "self_attention/layer_norm/beta",
    "self_attn.out_proj.weight": "self_attention/linear_1/weight",
    "self_attn.out_proj.bias": "self_attention/linear_1/bias",
    "final_layer_norm.weight": "ffn/layer_norm/gamma",
    "final_layer_norm.bias": "ffn/layer_norm/beta",
    "fc1.weight": "ffn/linear_0/weight",
    "fc1.bias": "ffn/linear_0/bias",
    "fc2.weight": "ffn/linear_1/weight",
    "fc2.bias": "ffn/linear_1/bias",
}
_ENCODER_NAMES = {
    "conv1.weight": "conv1/weight",
    "conv1.bias": "conv1/bias",
    "conv2.weight": "conv2/weight",
    "conv2.bias": "conv2/bias",
    "embed_positions.weight": "position_encodings/encodings",
    "layer_norm.weight": "layer_norm/gamma",
    "layer_norm.bias": "layer_norm/beta",
}


class _Cursor:
    """Walk over a memory-mapped file; every read is bounded by the file's end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        if not 0 < size <= MAX_FILE_BYTES:
            raise CheckpointError(
                f"{path} holds {size} bytes, which no CTranslate2 model does",
                hint="fetch the model again",
            )
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self.at = 0

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        if count > self.bytes.size - self.at:
            raise CheckpointError(
                f"{self.path} ends early: {count} bytes wanted at offset {self.at}",
                hint="the file is cut off or is not a CTranslate2 model; fetch it again",
            )
        self.at += count
        return self.bytes[self.at - count : self.at]

    def number(self, fmt: str) -> int:
        return int(struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt)).tobytes())[0])

    def string(self) -> str:
        raw = self.take(self.number("H")).tobytes().rstrip(b"\0")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(
                f"{self.path} holds a name that is not UTF-8 at offset {self.at}",
                hint="the file is damaged or is not a CTranslate2 model; fetch it again",
            ) from None


def read_ct2_variables(
    path: str | Path, prefix: str = ""
) -> tuple[str, dict[str, npt.NDArray[np.generic]]]:
    """Read the variables of a CTranslate2 `model.bin`.

    The layout is: u32 format version, string spec name, u32 spec revision, u32 count, then per
    variable a name, u8 rank, u32 dimensions, u8 type id, u32 byte count and the bytes
    (CTranslate2, `python/ctranslate2/specs/model_spec.py`). Aliases that follow are not read.

    Args:
        path: The file.
        prefix: Only variables whose name starts with it are returned.

    Returns:
        The spec name (such as `WhisperSpec`) and the variables by name; arrays are read-only
        views of the mapped file.

    Raises:
        CheckpointError: The file is missing, cut off, or not in format version 6.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no CTranslate2 model at {path}", hint="check the path")
    cursor = _Cursor(path)
    version = cursor.number("I")
    if version != SUPPORTED_FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has CTranslate2 format version {version}, "
            f"only {SUPPORTED_FORMAT_VERSION} is read",
            hint="convert the model with CTranslate2 3 or 4",
        )
    spec = cursor.string()
    cursor.number("I")
    variables: dict[str, npt.NDArray[np.generic]] = {}
    for _ in range(cursor.number("I")):
        name = cursor.string()
        rank = cursor.number("B")
        if rank > MAX_RANK:
            raise CheckpointError(
                f"{path}: {name!r} claims {rank} dimensions",
                hint="the file is damaged; fetch it again",
            )
        shape = tuple(cursor.number("I") for _ in range(rank))
        type_id = cursor.number("B")
        raw = cursor.take(cursor.number("I"))
        if not name.startswith(prefix):
            continue
        dtype = _DTYPES.get(type_id)
        if dtype is None:
            raise CheckpointError(
                f"{path}: {name!r} has type id {type_id}, which is not read",
                hint="convert the model with float16 or float32 weights",
            )
        if raw.size != dtype.itemsize * int(np.prod(shape, dtype=object)):
            raise CheckpointError(
                f"{path}: {name!r} has {raw.size} bytes, its shape is {shape}",
                hint="the file is damaged; fetch it again",
            )
        variables[name] = raw.view(dtype).reshape(shape)
    return spec, variables


def read_ct2_encoder(path: str | Path) -> tuple[dict[str, npt.NDArray[np.float32]], int]:
    """Read the encoder of a Whisper model.

    Args:
        path: Its `model.bin`, the encoder in fp16 or fp32.

    Returns:
        Tensors by Hugging Face's names (without the `encoder.` before them), and the heads.

    Raises:
        CheckpointError: The file is damaged, is no Whisper, or its encoder is quantised.
    """
    spec, variables = read_ct2_variables(path, prefix="encoder/")
    if spec != "WhisperSpec":
        raise CheckpointError(f"{path} is a {spec}, not Whisper", hint="give a Whisper model")
    tensors: dict[str, npt.NDArray[np.float32]] = {}

    def take(name: str) -> npt.NDArray[np.float32]:
        try:
            variable = variables["encoder/" + name]
        except KeyError:
            raise CheckpointError(f"{path} lacks encoder/{name}", hint="fetch it again") from None
        if variable.ndim and variable.dtype.kind != "f":
            raise CheckpointError(
                f"{path}: encoder/{name} is quantised", hint="keep the encoder in fp16 or fp32"
            )
        return variable.astype(np.float32)

    for ours, theirs in _ENCODER_NAMES.items():
        tensors[ours] = take(theirs)
    layer = 0
    while f"encoder/layer_{layer}/ffn/linear_0/weight" in variables:
        source, target = f"layer_{layer}/", f"layers.{layer}."
        for ours, theirs in LAYER_NAMES.items():
            tensors[target + ours] = take(source + theirs)
        weights = np.split(take(source + "self_attention/linear_0/weight"), 3)
        biases = np.split(take(source + "self_attention/linear_0/bias"), 3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            tensors[f"{target}self_attn.{name}_proj.weight"] = weight
            if name != "k":  # Whisper's keys have no bias; the fused one is zero there
                tensors[f"{target}self_attn.{name}_proj.bias"] = bias
        layer += 1
    return tensors, int(take("num_heads"))


def read_ct2_decoder(path: str | Path) -> tuple[dict[str, npt.NDArray[np.generic]], int]:
    """Read the text decoder of a Whisper model.

    Args:
        path: Its `model.bin`, the decoder in fp16 or fp32.

    Returns:
        Tensors by CTranslate2's names (without the `decoder/` before them), as they are stored,
        and the heads.

    Raises:
        CheckpointError: The file is damaged, is no Whisper, or its decoder is quantised.
    """
    spec, variables = read_ct2_variables(path, prefix="decoder/")
    if spec != "WhisperSpec" or "decoder/num_heads" not in variables:
        raise CheckpointError(f"{path} is a {spec}, not Whisper", hint="give a Whisper model")
    tensors = {name.removeprefix("decoder/"): value for name, value in variables.items()}
    if any(name.endswith("weight") and value.dtype.kind != "f" for name, value in tensors.items()):
        raise CheckpointError(f"{path}: the decoder is quantised", hint="keep it in fp16 or fp32")
    return tensors, int(tensors["num_heads"])


def ct2_decoder_config(
    tensors: Mapping[str, npt.NDArray[np.generic]], heads: int
) -> WhisperDecoderConfig:
    """Return the shape of a text decoder that `read_ct2_decoder` returned.

    Raises:
        KeyError: A tensor is missing.
        ValueError: The embeddings are no matrix.
    """
    tokens, width = tensors["embeddings/weight"].shape
    return WhisperDecoderConfig(
        d_model=width,
        layers=sum(name.endswith("ffn/linear_0/weight") for name in tensors),
        heads=heads,
        ffn=len(tensors["layer_0/ffn/linear_0/bias"]),
        tokens=tokens,
        positions=len(tensors["position_encodings/encodings"]),
    )
