"""Language models larger than a graph may be: weights beside it, written one layer at a time."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
import speech_llm_samples as samples
import torch
from language_models import save_model, tiny_model

import asa_engine as asa
from asa_engine.artifacts.onnx_graph import external_files
from asa_engine.bundle import Bundle, write_manifest
from asa_engine.errors import BundleError
from asa_engine.language_model.decoder import Decoder
from asa_engine.nn.language_model import LanguageModel
from asa_export import language_model_files
from asa_export.exporter import Job
from asa_export.external import ExternalData
from asa_export.language_model import decoder_model
from asa_export.language_model_config import DecoderConfig
from asa_export.language_model_files import DecoderFiles
from asa_export.language_model_quantize import Int4Decoder, Int8Decoder
from asa_export.speech import Speech, synthetic_recordings
from asa_export.speech_llm import EXPORTER
from asa_export.weights import Weights

DEMO = Path(__file__).parents[2] / "examples" / "audio" / "demo.flac"
LINEARS = {"int8": Int8Decoder, "int4": lambda _: Int4Decoder()}


def _rows(count: int, width: int) -> np.ndarray:
    return np.random.default_rng(2).normal(0, 1, (count, width)).astype(np.float32)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_weights_beside_the_graph_are_those_inside_it(tmp_path: Path, precision: str) -> None:
    weights = Weights(save_model(tiny_model("llama"), tmp_path) / "model.safetensors")
    config = DecoderConfig.from_hugging_face(json.loads((tmp_path / "config.json").read_text()))
    hidden = []
    for external in (None, ExternalData(tmp_path / "weights.data")):
        graph = decoder_model(
            config, weights, LINEARS[precision](weights), positions=64, external=external
        )
        path = tmp_path / f"{'inside' if external is None else 'beside'}.onnx"
        onnx.save(graph, path)
        hidden.append(Decoder.open(path, threads=1).start(40).extend(_rows(40, config.width)))
    # The same numbers in the same order.
    np.testing.assert_array_equal(*hidden)
    assert external_files(tmp_path / "beside.onnx") == {"weights.data"}
    inside, beside = ((tmp_path / f"{name}.onnx").stat().st_size for name in ("inside", "beside"))
    assert 0 < beside < inside / 3


def test_equal_constants_are_written_once_and_small_ones_stay(tmp_path: Path) -> None:
    external = ExternalData(tmp_path / "c.data")
    big = np.arange(1024, dtype=np.float32)
    one, two = external.add(big), external.add(big.copy())
    other = external.add(big.astype(np.uint8))
    assert one.name == two.name != other.name
    assert not external.takes(np.zeros(8, np.float32))
    assert (tmp_path / "c.data").stat().st_size == 4096 + 1024
    offset = next(int(entry.value) for entry in other.external_data if entry.key == "offset")
    assert offset % 4096 == 0


def _wide(layers: int) -> torch.nn.Module:
    """A model whose layers are large beside its graph: 3.1 M parameters each, few tokens."""
    return tiny_model(
        "llama", num_hidden_layers=layers, hidden_size=512, intermediate_size=1024, head_dim=64,
        num_attention_heads=8, num_key_value_heads=8,
    )  # fmt: skip


def test_a_layer_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of the real width, few layers; the peak is that of NumPy's allocations."""
    monkeypatch.setattr(language_model_files, "LARGEST_INSIDE", 1_000_000)
    peaks = []
    for layers in (2, 8):
        work = tmp_path / str(layers)
        work.mkdir()
        files = DecoderFiles(LanguageModel(_wide(layers)), work, positions=32)
        tracemalloc.start()
        file = files.write("int4", Int4Decoder())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        data = work / "language_model" / "int4.data"
        assert data.stat().st_size > layers * 2_600_000 / 2
        assert (work / file).stat().st_size < 200_000
        assert Decoder.open(work / file, threads=1).start(8).extend(_rows(8, 512)).shape == (8, 512)
    # Six layers more, of 1.6 MB each when packed, and not as much as one more in memory.
    assert peaks[1] - peaks[0] < 1_000_000


def test_small_models_stand_in_their_graph(tmp_path: Path) -> None:
    files = DecoderFiles(LanguageModel(tiny_model("llama")), tmp_path, positions=32)
    files.write("int4", Int4Decoder())
    assert not list(tmp_path.rglob("*.data"))


def test_a_bundle_holds_them_and_their_hash(tmp_path: Path, monkeypatch) -> None:
    made = []
    source = Bundle.open(samples.make_checkpoint(tmp_path / "checkpoint"))
    speech = Speech("short", synthetic_recordings(seed=1)[:1], ())
    for largest in (2**30, 0):
        monkeypatch.setattr(language_model_files, "LARGEST_INSIDE", largest)
        folder = tmp_path / str(largest)
        folder.mkdir()
        variants = (("onnxruntime", "int4"),)
        stages = EXPORTER.build(Job(source, EXPORTER.validate(source), folder, variants, speech))
        head = {"name": "b", "version": "1", "grader": "speech_llm", "parity": {}}
        write_manifest(folder, **head, stages=stages, auto=variants)
        scores = asa.load(folder, threads=1).assess(DEMO).scores
        made.append(scores["total"].value)
    assert made[0] == made[1]
    data = folder / "language_model" / "int4.data"
    whole = bytearray(data.read_bytes())
    whole[-1] ^= 1
    data.write_bytes(whole)
    with pytest.raises(BundleError, match=r"int4\.data"):
        asa.load(folder, threads=1)
