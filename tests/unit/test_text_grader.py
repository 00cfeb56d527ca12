"""The text grader: what it reads, what it says, and that run time agrees with the reference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from text_samples import make_bert, make_config, make_grader, make_tokenizer

from asa_engine.assessment import Word
from asa_engine.errors import BundleError, CheckpointError
from asa_engine.features.word_pieces import WordPieces, clean
from asa_engine.graders.text.config import TextConfig
from asa_engine.graders.text.encoders import Head, TorchEncoder
from asa_engine.graders.text.model import TextGrader, masked_mean
from asa_engine.graders.text.runtime import TextRun, TextStages, judge_text
from asa_engine.profiling import Span, StageClock, recording
from asa_engine.recogniser import Recogniser
from asa_engine.recogniser.guards import Doubts
from asa_engine.recogniser.whisper import Heard
from asa_engine.request import Request

# float32 sums of a few dozen terms against float64 ones.
TOLERANCE = 1e-5


class Says:
    """A recogniser's model that hears the same text in every window."""

    def __init__(self, text: str, log_probability: float = -0.2) -> None:
        self.text, self.doubts = text, Doubts(log_probability, 0.0)

    def hear(self, samples):
        words = tuple(Word(w, 0.0, 0.1, 0.9) for w in self.text.split())
        return Heard(self.text, words, self.doubts)


@pytest.fixture
def grader(tmp_path: Path):
    grader = make_grader()
    grader.save(tmp_path / "checkpoint", tokenizer=make_tokenizer(tmp_path / "t.json"))
    return grader


@pytest.fixture
def stages(grader, tmp_path: Path):
    folder = tmp_path / "checkpoint"
    return TextStages(
        Recogniser(Says("the cat sat")),
        WordPieces.open(folder / "tokenizer.json", grader.config.max_pieces),
        TorchEncoder(TextGrader.load(folder)),
        Head.open(folder / "weights.safetensors", grader.config),
    )


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("  the \t cat\n", "the cat"),
        (
            "the \N{GRINNING FACE} cat \N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-5}",
            "the cat",
        ),
        ("\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}", ""),
        ("the\x07 c\x00at\x1b[31m", "the cat[31m"),
        ("wor\N{ZERO WIDTH SPACE}d \N{RIGHT-TO-LEFT OVERRIDE}evil", "word evil"),
        ("\ud800half", "half"),
        ("It’s 3.5 – naïve!", "It’s 3.5 – naïve!"),  # noqa: RUF001
        ("", ""),
    ],
)
def test_what_cannot_be_spoken_is_not_read(said: str, read: str) -> None:
    assert clean(said) == read


def test_word_pieces_keep_both_marks_and_the_first_of_a_long_text(tmp_path: Path) -> None:
    pieces = WordPieces.open(make_tokenizer(tmp_path / "t.json"), 6)
    assert pieces.encode("the cats").ids == (2, 4, 5, 15, 3)
    assert not pieces.encode("the cat sat on").is_cut
    long = pieces.encode("the cat sat on the mat")
    assert long.ids == (2, 4, 5, 6, 7, 3)
    assert long.is_cut


@pytest.mark.parametrize("content", [b"{}", b"\xff\xfe", b"[1]", b""])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        WordPieces.open(path, 8)


def test_masked_mean_leaves_the_padding_out() -> None:
    hidden = torch.arange(24, dtype=torch.float32).reshape(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    found = masked_mean(hidden, mask).numpy()
    np.testing.assert_allclose(found[0], hidden[0].mean(0), atol=TOLERANCE)
    np.testing.assert_allclose(found[1], hidden[1, :2].mean(0), atol=TOLERANCE)


def test_padding_changes_no_logit(grader) -> None:
    short, long = [2, 4, 5, 3], [2, 4, 5, 6, 7, 8, 3]
    ids = torch.tensor([short + [0] * 3, long])
    mask = torch.tensor([[1] * 4 + [0] * 3, [1] * 7])
    with torch.inference_mode():
        together = grader(ids, mask)
        alone = grader(torch.tensor([short]), torch.ones(1, 4, dtype=torch.long))
    torch.testing.assert_close(together[:1], alone, atol=TOLERANCE, rtol=0)


def test_run_time_says_what_the_reference_says(grader, stages) -> None:
    ids = stages.pieces.encode("the dog ran home").ids
    with torch.inference_mode():
        logits = grader(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
    score = judge_text(stages, grader.config, "the dog ran home").scores["total"]
    assert score.value == pytest.approx(grader.expected_score(logits).item(), abs=TOLERANCE)
    assert list(score.probabilities) == ["A", "B", "C"]
    np.testing.assert_allclose(
        list(score.probabilities.values()), logits.softmax(-1)[0].numpy(), atol=TOLERANCE
    )
    expected = np.dot(list(score.probabilities.values()), grader.config.class_scores)
    assert score.value == pytest.approx(expected, abs=1e-12)
    assert score.level == ("A" if expected < 4.5 else "B" if expected < 7.5 else "C")
    assert score.likeliest_class == "ABC"[int(logits.argmax())]


def test_inference_is_the_same_twice(grader, stages) -> None:
    first, second = (
        judge_text(stages, grader.config, "we ran again").scores["total"].value for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    ("text", "reasons", "scorable"),
    [
        ("the cat sat on the mat", (), True),
        ("cat", ("few_words",), True),
        ("again " * 500, ("text_cut",), True),
        ("", ("no_words",), False),
        ("\N{GRINNING FACE} \x00\x07", ("no_words",), False),
    ],
)
def test_odd_transcripts_are_flagged(stages, text: str, reasons, scorable: bool) -> None:
    grade = judge_text(stages, make_config(), text)
    assert grade.reasons == reasons
    assert grade.scorable is scorable
    assert bool(grade.scores) is scorable


def _run(stages, text: str, log_probability: float = -0.2) -> TextRun:
    stages = TextStages(
        Recogniser(Says(text, log_probability)), stages.pieces, stages.encoder, stages.head
    )
    return TextRun(make_config(), stages, StageClock(), Request())


def _speech(seconds: float) -> np.ndarray:
    """Voiced sound that the speech detector takes for speech, with a pause every nine seconds."""
    from asa_export.speech import synthetic_recordings

    parts = [recording.samples() for recording in synthetic_recordings()]
    parts.append(np.zeros(16_000, np.float32))
    return np.resize(np.concatenate(parts), round(seconds * 16_000))


def test_silence_has_no_score(stages) -> None:
    run = _run(stages, "the cat sat")
    run.push(np.zeros(32_000, np.float32))
    assert run.provisional() is None
    grade = run.finish()
    assert grade.reasons == ("no_words",)
    assert not grade.scorable
    assert not grade.scores


def test_no_samples_make_no_grade(stages) -> None:
    assert _run(stages, "the cat sat").finish() is None


def test_words_that_were_made_up_have_no_score(stages) -> None:
    run = _run(stages, "the cat sat on the mat", log_probability=-3.0)
    run.push(_speech(6.0))
    grade = run.finish()
    assert grade.reasons == ("hallucination",)
    assert not grade.scorable
    assert not grade.scores
    assert grade.transcript == "the cat sat on the mat"


def test_spans_say_how_many_windows_were_heard(stages) -> None:
    spans: list[Span] = []
    with recording(spans.append):
        run = _run(stages, "the cat sat")
    samples = _speech(70.0)
    changes = 0
    for start in range(0, len(samples), 16_000):
        before = run.provisional()
        run.push(samples[start : start + 16_000])
        changes += run.provisional() != before
    assert changes > 1
    assert sum(span.args["windows"] for span in spans if span.stage == "recogniser") == changes


def test_a_stream_grades_closed_windows_and_ends_like_the_file(stages) -> None:
    samples = _speech(70.0)
    whole = _run(stages, "the cat sat")
    whole.push(samples)
    clipped = _run(stages, "the cat sat")
    seen = set()
    for start in range(0, len(samples), 3200):
        clipped.push(samples[start : start + 3200])
        if (grade := clipped.provisional()) is not None:
            assert grade.transcript == " ".join(word.text for word in grade.words)
            seen.add(len(grade.words))
    assert len(seen) > 1  # several windows closed while the speech went on
    assert clipped.finish() == whole.finish()


def test_a_checkpoint_holds_what_was_tuned_and_nothing_else(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = make_bert(tmp_path / "bert")
    both = {"recogniser": "whisper-tiny.en", "text_encoder": "minilm-l6"}
    from asa_engine.nn.bert import load_bert

    grader = TextGrader(make_config(backbones=both), load_bert(folder))
    with torch.no_grad():
        for parameter in grader.tuned().values():
            parameter.add_(0.05)
    grader.round_halves()
    grader.eval().save(tmp_path / "checkpoint")
    stored = load_file(tmp_path / "checkpoint" / "weights.safetensors")
    assert {name.split(".layer.")[1][0] for name in stored if "layer" in name.split(".")} == {
        "1",
        "2",
    }
    assert not (tmp_path / "checkpoint" / "tokenizer.json").exists()
    again = TextGrader.load(tmp_path / "checkpoint", folder)
    ids, mask = torch.tensor([[2, 4, 9, 3]]), torch.ones(1, 4, dtype=torch.long)
    with torch.inference_mode():
        assert torch.equal(again(ids, mask), grader(ids, mask))


def test_a_checkpoint_without_a_tensor_is_refused(grader, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "checkpoint" / "weights.safetensors"
    state = load_file(path)
    del state["bert.encoder.layer.2.output.dense.bias"]
    save_file(state, path)
    with pytest.raises(CheckpointError, match="lacks bert"):
        TextGrader.load(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"class_scores": [3.5, 6.0]}, "class_scores"),
        ({"class_scores": [3.5, 6.0, 11.0]}, "class_scores"),
        ({"class_scores": [6.0, 3.5, 8.0]}, "class_scores"),
        ({"tuned_layers": 9}, "tuned_layers"),
        ({"max_pieces": 65}, "max_pieces"),
        ({"max_pieces": 2}, "max_pieces"),
        ({"dropout": 1.0}, "dropout"),
        ({"backbones": {}}, "backbones"),
        ({"backbones": {"recogniser": 3}}, "backbones.recogniser"),
        ({"encoder": {"width": 10**9}}, "encoder.width"),
        ({"encoder": {"width": 30, "heads": 4}}, "encoder.heads"),
        ({"format_revision": 2}, "format_revision"),
        ({"grader": "acoustic"}, "acoustic"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"aspects": [{"name": "total"}]}, "aspects"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(changes, named: str) -> None:
    value = {**json.loads(json.dumps(make_config().to_dict())), **changes}
    with pytest.raises(CheckpointError, match=named):
        TextConfig.from_dict(value)


def test_a_configuration_survives_json() -> None:
    config = make_config()
    assert TextConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
