"""Exports the encoder to ONNX the usual way, at fp32 and dynamic int8, in the peers' environment.

python -m benchmarks.encoders.exports HUGGING_FACE_FOLDER TARGET_FOLDER
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.encoders.peers import hugging_face_encoder

__all__ = ["export"]

OPSET = 20


def export(source: Path, target: Path) -> None:
    """Write `encoder.fp32.onnx` and `encoder.int8.onnx`; batch and length stay free."""
    torch: Any = import_module("torch")
    encoder = hugging_face_encoder(source)

    class AnyLength(torch.nn.Module):  # type: ignore[misc]
        """The encoder's own modules, with the positional table cut to the window."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, mel: Any) -> Any:
            """Map [B, n_mels, T] to [B, ceil(T / 2), D]."""
            gelu = torch.nn.functional.gelu
            x = gelu(self.encoder.conv2(gelu(self.encoder.conv1(mel)))).transpose(1, 2)
            x = x + self.encoder.embed_positions.weight[: x.shape[1]]
            for layer in self.encoder.layers:
                x = layer(x, None)
            return self.encoder.layer_norm(x)

    target.mkdir(parents=True, exist_ok=True)
    config = encoder.config
    example = torch.zeros(2, config.num_mel_bins, 2 * config.max_source_positions - 200)
    dimensions = {0: torch.export.Dim("batch"), 2: torch.export.Dim("time")}
    program = torch.onnx.export(
        AnyLength().eval(),
        (example,),
        dynamo=True,
        dynamic_shapes={"mel": dimensions},
        input_names=["mel"],
        output_names=["states"],
        opset_version=OPSET,
        verbose=False,
    )
    full = target / "encoder.fp32.onnx"
    program.save(full, external_data=False)
    # Whole channels for the weights; convolutions stay fp32, as the runtime's guide advises.
    import_module("onnxruntime.quantization").quantize_dynamic(
        full,
        target / "encoder.int8.onnx",
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],
    )


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
