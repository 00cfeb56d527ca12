"""The text grader at run time: speech -> words -> BERT -> classes -> a score.

The recogniser transcribes windows as they close and never looks at them again; what is left at the
end of the speech is the open window and one pass of the text encoder over the whole transcript.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Grade, Word
from asa_engine.backbones import model_folder
from asa_engine.bundle import WEIGHTS_NAME, Bundle
from asa_engine.features.word_pieces import TOKENIZER_NAME, WordPieces, clean
from asa_engine.graders.entry import GraderEntry, openers
from asa_engine.graders.text.config import TextConfig
from asa_engine.graders.text.encoders import (
    CTranslate2Encoder,
    Head,
    OnnxEncoder,
    TextEncoder,
    TorchEncoder,
)
from asa_engine.profiling import StageClock
from asa_engine.recogniser import FATAL, Recogniser, Transcript
from asa_engine.request import Request
from asa_engine.runtimes import runtime
from asa_engine.runtimes.torch import TorchRuntime

__all__ = ["ENTRY", "TextRun", "TextStages", "judge_text"]

SAMPLE_RATE_HZ = 16_000
# Every exported variant hears the same words, with the recogniser whose transcripts the grader was
# trained on; what its precision changes is how they are read. The torch backend is Hugging Face's
# pipeline from end to end, and hears what Hugging Face's Whisper hears.
RECOGNISER_PRECISION = "int8"
ENCODER = "text_encoder"


class Recognition(Protocol):
    """One recording being transcribed."""

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of the closed windows."""

    @property
    def windows(self) -> int:
        """How many of them have been transcribed."""

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 samples at 16 kHz."""

    def finish(self) -> Transcript:
        """Return all that was said."""


class Recognises(Protocol):
    """A recogniser: the engine's own, or the reference."""

    def start(self) -> Recognition:
        """Start on one recording."""


@dataclass(frozen=True)
class TextStages:
    """The grader's stages, loaded and ready.

    Attributes:
        recogniser: Speech to words.
        pieces: Words to word pieces.
        encoder: Word pieces to one vector.
        head: The vector to a score.
        libraries: Library -> version, for the receipt.
    """

    recogniser: Recognises
    pieces: WordPieces
    encoder: TextEncoder
    head: Head
    libraries: Mapping[str, str] = field(default_factory=dict)

    def versions(self) -> dict[str, str]:
        """Return the libraries that the scores depend on."""
        return dict(self.libraries)


class TextRun:
    """Grades one recording as its samples arrive.

    Args:
        config: The grader's configuration.
        stages: Its stages.
        clock: Collects `recogniser`, `backbone` and `head` times.
        request: Unused: the grader judges what was said, whatever was asked for.
    """

    def __init__(
        self, config: TextConfig, stages: TextStages, clock: StageClock, request: Request
    ) -> None:
        self._config = config
        self._stages = stages
        self._clock = clock
        self._recognition = stages.recogniser.start()
        self._samples = 0
        self._judged: tuple[int, Grade | None] = (0, None)

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz; transcribe every window they close."""
        self._samples += samples.size
        before = self._recognition.windows
        with self._clock.scope("recogniser") as span:
            self._recognition.push(samples)
            span["windows"] = self._recognition.windows - before

    def provisional(self) -> Grade | None:
        """Grade the words of the closed windows; `None` before there are any."""
        words = self._recognition.words
        if len(words) != self._judged[0]:
            self._judged = (len(words), self._grade(_joined(words), words))
        return self._judged[1]

    def finish(self) -> Grade | None:
        """Transcribe what is left and grade all of it."""
        if not self._samples:
            return None
        with self._clock.scope("recogniser"):
            transcript = self._recognition.finish()
        return self._grade(transcript.text, transcript.words, transcript.reasons)

    def _grade(self, text: str, words: tuple[Word, ...], reasons: tuple[str, ...] = ()) -> Grade:
        return judge_text(
            self._stages,
            self._config,
            text,
            words,
            reasons,
            duration_s=self._samples / SAMPLE_RATE_HZ,
            clock=self._clock,
        )


def judge_text(
    stages: TextStages,
    config: TextConfig,
    text: str,
    words: tuple[Word, ...] = (),
    reasons: tuple[str, ...] = (),
    *,
    duration_s: float | None = None,
    clock: StageClock | None = None,
) -> Grade:
    """Grade a transcript.

    Args:
        stages: Text encoder and head; the recogniser is not used.
        config: The grader's configuration.
        text: The transcript; what cannot be spoken is taken out of it.
        words: The transcript's words.
        reasons: What the recogniser holds against it.
        duration_s: Seconds it was spoken in, for the expected error.
        clock: Collects `backbone` and `head` times.

    Returns:
        The grade. Without a word, or where the recogniser doubts that these words were said, it
        is not scorable. One of fewer than `min_words` words, or of more than BERT reads, is
        scored and flagged.
    """
    clock = clock or StageClock()
    heard = clean(text)
    if not heard or any(reason in FATAL for reason in reasons):
        why = reasons if heard else (*reasons, "no_words")
        return Grade(
            {},
            words=words,
            transcript=heard,
            reasons=tuple(dict.fromkeys(why)),
            scorable=False,
        )
    with clock.scope("backbone"):
        pieces = stages.pieces.encode(heard)
        pooled = stages.encoder.pool(pieces.ids)
    with clock.scope("head"):
        expected, shares = stages.head.judge(pooled)
    aspect = config.aspect
    score = aspect.score(
        expected,
        duration_s=duration_s,
        probabilities=dict(zip(config.classes, shares, strict=True)),
    )
    if len(heard.split()) < config.min_words:
        reasons = (*reasons, "few_words")
    if pieces.is_cut:
        reasons = (*reasons, "text_cut")
    return Grade({aspect.name: score}, words=words, transcript=heard, reasons=reasons)


def _joined(words: tuple[Word, ...]) -> str:
    return " ".join(word.text for word in words)


def _open(backend: str, bundle: Bundle, precision: str, threads: int) -> TextStages:
    config = TextConfig.from_dict(bundle.config)
    file = bundle.file(ENCODER, backend, precision)
    encoder: TextEncoder
    if backend == "onnxruntime":
        encoder = OnnxEncoder(file, threads)
    else:
        encoder = CTranslate2Encoder(file.parent, threads)
    words = bundle.file("recogniser", backend, precision).parent
    return TextStages(
        Recogniser.open(words, precision=RECOGNISER_PRECISION, threads=threads),
        WordPieces.open(bundle.path / ENCODER / TOKENIZER_NAME, config.max_pieces),
        encoder,
        Head.open(bundle.path / WEIGHTS_NAME, config),
        _versions("tokenizers") | runtime(backend).availability().versions,
    )


def _open_torch(bundle: Bundle, precision: str, threads: int) -> TextStages:
    """Open Hugging Face's recogniser and BERT: a pipeline of which nothing is ours."""
    TorchRuntime.need(threads, precision, packages=("transformers",))
    from asa_engine.recogniser.reference import open_reference

    config = TextConfig.from_dict(bundle.config)
    recogniser = open_reference(model_folder(config.backbones["recogniser"]))
    return _torch_stages(bundle, config, recogniser)


def _open_reference(bundle: Bundle, threads: int) -> TextStages:
    """Open Hugging Face's BERT behind the recogniser that the exported variants run."""
    TorchRuntime.need(threads, packages=("transformers",))
    config = TextConfig.from_dict(bundle.config)
    folder = model_folder(config.backbones["recogniser"])
    recogniser = Recogniser.open(folder, precision=RECOGNISER_PRECISION, threads=threads)
    return _torch_stages(bundle, config, recogniser)


def _torch_stages(bundle: Bundle, config: TextConfig, recogniser: Recognises) -> TextStages:
    from asa_engine.graders.text.model import TextGrader

    backbone = None if config.is_whole else model_folder(config.backbones[ENCODER])
    tokenizer = (bundle.path if backbone is None else backbone) / TOKENIZER_NAME
    return TextStages(
        recogniser,
        WordPieces.open(tokenizer, config.max_pieces),
        TorchEncoder(TextGrader.load(bundle.path, backbone)),
        Head.open(bundle.path / WEIGHTS_NAME, config),
        _versions("tokenizers", "torch", "transformers"),
    )


def _versions(*packages: str) -> dict[str, str]:
    return {name: metadata.version(name) for name in dict.fromkeys(packages)}


ENTRY = GraderEntry(
    name="text",
    summary="S1: Whisper's words, BERT, classes trained with cross-entropy, focal or BLV loss",
    exact_when="a window's words are final when it closes; the score when the speech ends",
    config=TextConfig.from_dict,
    backends=openers(_open, "onnxruntime", "ctranslate2", torch=_open_torch),
    run=TextRun,
    extra="recogniser",
    reference=_open_reference,
    trainer="asa_engine.training.text.trainer:train",
    recipe="asa_engine.training.text.recipe:TextRecipe",
    exporter="asa_export.text:EXPORTER",
)
