"""wav2vec2 as Hugging Face has it: waveform in, 50 frames a second out."""

from __future__ import annotations

from pathlib import Path

from transformers import Wav2Vec2Model

from asa_engine.errors import CheckpointError
from asa_engine.nn.bert import quiet

__all__ = ["load_wav2vec2"]


def load_wav2vec2(source: str | Path) -> Wav2Vec2Model:
    """Read a wav2vec2 encoder from a folder, or from the hub by name, in float32.

    It is in evaluation mode; training's random masks are off.

    Raises:
        CheckpointError: It is not there, or is not a wav2vec2.
    """
    try:
        with quiet():
            model: Wav2Vec2Model = Wav2Vec2Model.from_pretrained(str(source))
    except Exception as failure:  # transformers raises whatever its many readers raise
        raise CheckpointError(
            f"{source} cannot be read as a wav2vec2: {failure}",
            hint="pass a folder or hub name of a Wav2Vec2Model",
        ) from None
    if model.config.model_type != "wav2vec2":
        raise CheckpointError(f"{source} is a {model.config.model_type}, not a wav2vec2")
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    model.eval()  # type: ignore[no-untyped-call]
    return model
