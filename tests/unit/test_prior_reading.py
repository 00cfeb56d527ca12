"""The three ways to read speech with a prior: exact where they say so, approximate where not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from language_models import save_model, tiny_model
from numpy.typing import NDArray

from asa_engine.errors import UsageError
from asa_engine.language_model.decoder import Decoder
from asa_engine.language_model.reading_modes import PriorReading, prior_distance
from asa_export.language_model import FloatDecoder, decoder_model
from asa_export.language_model_config import DecoderConfig
from asa_export.weights import Weights

# float32 sums in another order, hidden states of magnitude 1 to 4.
TOLERANCE = 1e-4
RNG = np.random.default_rng(8)
LEVELS = RNG.normal(0, 1, (4, 64)).astype(np.float32)
END = RNG.normal(0, 1, (3, 64)).astype(np.float32)
CLIPS = [RNG.normal(0, 1, (n, 64)).astype(np.float32) for n in (7, 12, 5)]
PRIORS = [np.array(p) for p in ([0.7, 0.1, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1], [0.38, 0.42, 0.1, 0.1])]
LAST = np.array([0.36, 0.44, 0.1, 0.1])


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = save_model(tiny_model(), tmp_path_factory.mktemp("decoder"))
    config = DecoderConfig.from_hugging_face(json.loads((folder / "config.json").read_text()))
    weights = Weights(folder / "model.safetensors")
    onnx.save(decoder_model(config, weights, FloatDecoder(), positions=200), folder / "d.onnx")
    return Decoder.open(Path(folder / "d.onnx"), threads=1)


def whole(*parts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run one sequence through Hugging Face's model; return its last hidden state."""
    rows = torch.from_numpy(np.concatenate(parts))[None]
    with torch.inference_mode():
        hidden: NDArray[np.float32] = tiny_model().model(inputs_embeds=rows)[0][0, -1].numpy()
    return hidden


def token(prior: NDArray[np.float64]) -> NDArray[np.float32]:
    return (prior @ LEVELS)[None].astype(np.float32)


def read(
    decoder: Decoder, mode: str, tolerance: float = 0.0
) -> tuple[PriorReading, NDArray[np.float32]]:
    reading = PriorReading(decoder, LEVELS, END, mode=mode, capacity=28, tolerance=tolerance)
    for clip, prior in zip(CLIPS, PRIORS, strict=True):
        reading.add(clip, prior)
    return reading, reading.answer(LAST)


@pytest.mark.parametrize("mode", ["deferred", "speculative"])
def test_a_prior_in_front_is_exact(decoder: Decoder, mode: str) -> None:
    reading, hidden = read(decoder, mode)
    np.testing.assert_allclose(hidden, whole(token(LAST), *CLIPS, END), atol=TOLERANCE, rtol=0)
    assert reading.restarts == (0 if mode == "deferred" else 3)


def test_a_late_prior_is_exact_and_early(decoder: Decoder) -> None:
    reading, hidden = read(decoder, "late")
    np.testing.assert_allclose(hidden, whole(*CLIPS, token(LAST), END), atol=TOLERANCE, rtol=0)
    assert reading.rows_run == 24 + 1 + 3


def test_a_tolerance_keeps_what_was_run(decoder: Decoder) -> None:
    reading, hidden = read(decoder, "speculative", tolerance=0.1)
    # The second prior is 0.3 from the first; the third and the last are within 0.1 of the second.
    assert reading.restarts == 1
    expected = whole(token(PRIORS[1]), *CLIPS, END)
    np.testing.assert_allclose(hidden, expected, atol=TOLERANCE, rtol=0)
    assert np.abs(hidden - whole(token(LAST), *CLIPS, END)).max() > 10 * TOLERANCE
    assert reading.rows_run == (1 + 7) + (1 + 19) + 5 + 3


def test_speculation_waits_for_a_prior(decoder: Decoder) -> None:
    reading = PriorReading(decoder, LEVELS, END, mode="speculative", capacity=28, tolerance=1.0)
    reading.add(CLIPS[0])
    assert reading.rows_run == 0
    reading.add(CLIPS[1], PRIORS[0])
    assert reading.rows_run == 20
    reading.add(CLIPS[2])
    assert reading.rows_run == 25
    expected = whole(token(PRIORS[0]), *CLIPS, END)
    np.testing.assert_allclose(reading.answer(LAST), expected, atol=TOLERANCE, rtol=0)


def test_distance_is_total_variation() -> None:
    assert prior_distance(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0
    assert prior_distance(PRIORS[0], PRIORS[1]) == pytest.approx(0.3)


def test_limits_are_checked_first(decoder: Decoder) -> None:
    with pytest.raises(UsageError, match="201 tokens"):
        PriorReading(decoder, LEVELS, END, mode="late", capacity=201)
    with pytest.raises(ValueError, match="'early'"):
        PriorReading(decoder, LEVELS, END, mode="early", capacity=20)


@pytest.mark.parametrize("mode", ["deferred", "speculative", "late"])
def test_an_answer_leaves_the_reading_as_it_was(decoder: Decoder, mode: str) -> None:
    reading = PriorReading(decoder, LEVELS, END, mode=mode, capacity=40)
    reading.add(CLIPS[0], PRIORS[0])
    rest = RNG.normal(0, 1, (4, 64)).astype(np.float32)
    first = reading.answer(PRIORS[0], rest)
    speech = [CLIPS[0], rest]
    place = 2 if mode == "late" else 0
    speech.insert(place, token(PRIORS[0]))
    np.testing.assert_allclose(first, whole(*speech, END), atol=TOLERANCE, rtol=0)
    reading.add(CLIPS[1], PRIORS[1])
    body = [CLIPS[0], CLIPS[1]]
    body.insert(place, token(LAST))
    np.testing.assert_allclose(reading.answer(LAST), whole(*body, END), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("mode", ["deferred", "speculative", "late"])
@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_what_was_taken_can_be_forgotten(decoder: Decoder, mode: str, tolerance: float) -> None:
    def read_all(*, forget: bool) -> NDArray[np.float32]:
        reading = PriorReading(decoder, LEVELS, END, mode=mode, capacity=40, tolerance=tolerance)
        reading.add(CLIPS[0], PRIORS[0])
        if forget:
            mark = reading.count
            reading.add(CLIPS[2], PRIORS[0])
            reading.rewind(mark)
        reading.add(CLIPS[1], PRIORS[0])
        return reading.answer(PRIORS[0])

    expected = read_all(forget=False)
    np.testing.assert_allclose(read_all(forget=True), expected, atol=TOLERANCE, rtol=0)
    with pytest.raises(ValueError, match="cannot rewind"):
        PriorReading(decoder, LEVELS, END, mode=mode, capacity=40).rewind(1)


def test_a_late_prior_may_follow_a_beginning_that_was_run_before(decoder: Decoder) -> None:
    before = decoder.start(6)
    prefix = RNG.normal(0, 1, (6, 64)).astype(np.float32)
    before.extend(prefix)
    reading = PriorReading(decoder, LEVELS, END, mode="late", capacity=40, beginning=before.state())
    reading.add(CLIPS[0])
    expected = whole(prefix, CLIPS[0], token(LAST), END)
    np.testing.assert_allclose(reading.answer(LAST), expected, atol=TOLERANCE, rtol=0)
    assert reading.rows_run == 7 + 1 + 3
    with pytest.raises(ValueError, match="only a late prior"):
        PriorReading(decoder, LEVELS, END, mode="deferred", capacity=40, beginning=before.state())
