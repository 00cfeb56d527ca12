"""Write a recogniser into a bundle: Whisper in CTranslate2's layout, its weights in fp16.

The engine's kernels quantise as they see fit when it is opened: a file quantised before would be
quantised twice, and hear other words than the recogniser that graders are trained on.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from asa_engine.errors import CheckpointError
from asa_engine.files import atomic_folder

__all__ = ["convert_whisper"]

_FILES: Final = ("config.json", "vocabulary.json", "vocabulary.txt")


def convert_whisper(source: Path, target: Path) -> Path:
    """Write a Whisper model the way `asa_engine.recogniser` reads it.

    Args:
        source: Hugging Face's folder (`model.safetensors`, `config.json`, tokenizer), or
            CTranslate2's with weights in fp16 or fp32.
        target: The folder to write.

    Returns:
        The `model.bin` written.

    Raises:
        CheckpointError: The source holds no whole Whisper.
        UsageError: The target is there already.
    """
    with atomic_folder(target) as work:
        if (source / "model.bin").is_file():
            folder = source
        elif (source / "model.safetensors").is_file():
            folder = _from_hugging_face(source, work / "converted")
        else:
            raise CheckpointError(
                f"{source} holds neither model.safetensors nor CTranslate2's model.bin",
                hint="give the folder of a Whisper model",
            )
        for name in _FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, work / name)
        shutil.copyfile(folder / "model.bin", work / "model.bin")
        shutil.rmtree(work / "converted", ignore_errors=True)
    return target / "model.bin"


def _from_hugging_face(source: Path, folder: Path) -> Path:
    from ctranslate2.converters import TransformersConverter

    try:
        TransformersConverter(str(source), load_as_float16=True).convert(str(folder))
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as failure:
        raise CheckpointError(
            f"CTranslate2 cannot convert {source}: {failure}", hint="give a whole Whisper folder"
        ) from None
    return folder
