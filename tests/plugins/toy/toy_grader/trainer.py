"""Learns it."""

from __future__ import annotations

import json
import tomllib

import numpy as np
from safetensors.numpy import save_file


def train(recipe, output, resume):
    offset = tomllib.loads(recipe.read_text())["offset"]
    output.mkdir()
    save_file({"offset": np.array([offset], np.float32)}, output / "weights.safetensors")
    config = {"grader": "toy", "format_revision": 1, "aspects": [{"name": "loudness"}]}
    (output / "config.json").write_text(json.dumps(config))
    return output
