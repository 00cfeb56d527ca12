"""Models of the Hugging Face hub by name: safetensors and what describes them, nothing that runs.

What huggingface_hub has in its cache is taken from there; HF_HUB_OFFLINE and HF_HOME apply.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, Final

from asa_engine.backbones.stored import INDEX_NAME, SINGLE_NAME
from asa_engine.errors import CheckpointError
from asa_engine.files import read_json

__all__ = ["hub_folder", "is_hub_name"]

_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")
_DESCRIBES: Final = ("tokenizer.json", "preprocessor_config.json", "generation_config.json")


def is_hub_name(name: str) -> bool:
    """Return whether a name is of the form `owner/model` and no folder here."""
    return bool(_NAME.fullmatch(name)) and not Path(name).exists()


def hub_folder(name: str) -> Path:
    """Return the folder of a model of the hub, fetched if need be.

    Args:
        name: Such as `openai/whisper-large-v3`.

    Raises:
        CheckpointError: It cannot be got, or has no safetensors.
    """
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        errors: Any = importlib.import_module("huggingface_hub.errors")
    except ImportError:
        raise CheckpointError(
            f"{name} is of the hub, and huggingface_hub is not installed",
            hint="pip install 'asa-engine[llm]', or give a folder",
        ) from None

    def get(file: str) -> Path | None:
        try:
            return Path(hub.hf_hub_download(name, file))
        except (errors.EntryNotFoundError, errors.LocalEntryNotFoundError):
            return None
        except (OSError, ValueError, errors.HfHubHTTPError) as failure:
            raise CheckpointError(
                f"{name} cannot be got from the hub: {str(failure).splitlines()[0][:200]}",
                hint="check the name and the network, or give a folder",
            ) from None

    config = get("config.json")
    if config is None or not _weights(get):
        raise CheckpointError(
            f"{name} is not in the hub's cache and cannot be got, or holds no safetensors",
            hint="check the name and the network, or give a folder; pickled weights are never read",
        )
    for file in _DESCRIBES:
        get(file)
    return config.parent


def _weights(get: Any) -> bool:
    if get(SINGLE_NAME) is not None:
        return True
    index = get(INDEX_NAME)
    if index is None:
        return False
    table = read_json(index, CheckpointError).get("weight_map")
    files = sorted({str(file) for file in table.values()}) if isinstance(table, dict) else []
    return bool(files) and all(get(file) is not None for file in files)
