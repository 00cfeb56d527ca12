"""The multi-aspect grader at run time: speech, words and prompt in, aspects out.

The recogniser and the speech encoder work window by window while the learner speaks, and a closed
window is final. Pitch and energy are collected too, but the pitch path is global and the words are
complete only at the end: delivery and language use are end-of-utterance only, and there are no
provisional scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Grade, Word
from asa_engine.bundle import Bundle
from asa_engine.errors import CheckpointError
from asa_engine.features.delivery import DeliveryTracker
from asa_engine.features.linguistic import Analyser, open_analyser
from asa_engine.features.word_pieces import TOKENIZER_NAME, WordPieces, clean
from asa_engine.graders.entry import GraderEntry, openers
from asa_engine.graders.fields import SAMPLE_RATE_HZ
from asa_engine.graders.multi_aspect.config import MultiAspectConfig
from asa_engine.graders.multi_aspect.features import (
    Encode,
    WordFeatures,
    describe_words,
    prompt_of,
    speech_frames,
)
from asa_engine.kernels.encoder import Encoder
from asa_engine.nn.ct2 import read_ct2_encoder
from asa_engine.profiling import StageClock
from asa_engine.recogniser import FATAL, Recogniser
from asa_engine.request import Request
from asa_engine.runtimes import runtime
from asa_engine.runtimes.onnxruntime import session

__all__ = ["ENTRY", "Judge", "MultiAspectRun", "MultiAspectStages"]

MAX_WORDS = 1000
"""Attention's memory grows with the square of this; more words are left out and flagged."""
_Vector = NDArray[np.float32]


class Judge(Protocol):
    """The frozen text encoder and the trained parts, on one backend."""

    def prompt(self, text: str) -> tuple[_Vector, bool]:
        """Return a prompt's vector [prompt_width], and whether pieces of it were left out."""

    def judge(self, frames: _Vector, prompt: _Vector, features: WordFeatures) -> _Vector:
        """Return the probabilities of every aspect's classes, [A, C].

        Args:
            frames: Speech frames, float32 [T, frame_width].
            prompt: float32 [prompt_width]; zeros where there is none.
            features: Features of at least one word.
        """


@dataclass(frozen=True)
class MultiAspectStages:
    """The grader's stages, loaded and ready.

    Attributes:
        recogniser: Speech to words.
        encode: Log-mel of a window to its frames.
        judge: Text encoder and trained parts.
        analyser: Tags the words.
        libraries: Library -> version, for the receipt.
    """

    recogniser: Recogniser
    encode: Encode
    judge: Judge
    analyser: Analyser
    libraries: dict[str, str] = field(default_factory=dict)

    def versions(self) -> dict[str, str]:
        """Return the libraries that the scores depend on."""
        return {**self.libraries, **self.analyser.versions()}


class OnnxJudge:
    """Text encoder and trained parts in ONNX Runtime."""

    def __init__(self, text: Path, aspects: Path, config: MultiAspectConfig, threads: int) -> None:
        self._text = session(text, threads)
        self._aspects = session(aspects, threads)
        self._pieces = WordPieces.open(text.with_name(TOKENIZER_NAME), config.max_pieces)

    def prompt(self, text: str) -> tuple[_Vector, bool]:
        """Run BERT; the graph ends in the mean over the pieces."""
        pieces = self._pieces.encode(clean(text))
        ids = np.array([pieces.ids], dtype=np.int64)
        vector: _Vector = self._text.run(["pooled"], {"ids": ids})[0][0]
        return vector, pieces.is_cut

    def judge(self, frames: _Vector, prompt: _Vector, features: WordFeatures) -> _Vector:
        """Run the three encoders and the head."""
        inputs = {
            "frames": frames[None],
            "prompt": prompt[None],
            "delivery": features.delivery[None],
            "language": features.language[None],
        }
        shares: _Vector = self._aspects.run(["probabilities"], inputs)[0][0]
        return shares


def onnx_encode(path: Path, threads: int) -> Encode:
    """Return the speech encoder in ONNX Runtime."""
    encoder = session(path, threads)

    def encode(mel: _Vector) -> _Vector:
        frames: _Vector = encoder.run(["frames"], {"mel": mel[None]})[0][0]
        return frames

    return encode


def wave_encode(path: Path, threads: int) -> Encode:
    """Return a wav2vec2 in ONNX Runtime: samples, float32 [n], to frames [T, D]."""
    encoder = session(path, threads)

    def encode(samples: _Vector) -> _Vector:
        frames: _Vector = encoder.run(["frames"], {"samples": samples})[0]
        return frames

    return encode


def native_encode(path: Path, config: MultiAspectConfig, precision: str, threads: int) -> Encode:
    """Return the speech encoder on the project's own kernels, from the recogniser's weights.

    Raises:
        CheckpointError: The file is damaged, or of another shape than the configuration's.
    """
    tensors, _ = read_ct2_encoder(path)

    def read(name: str, shape: tuple[int, ...]) -> _Vector:
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != shape:
            raise CheckpointError(
                f"{path}: the encoder's {name} is not {list(shape)}", hint="export the bundle again"
            )
        return np.ascontiguousarray(tensor)

    encoder = Encoder(config.speech_encoder, read, precision=precision, threads=threads)
    count = config.speech_encoder.layers + 1
    weights = [1.0 / count] * count if config.mixed_layers else None
    return lambda mel: encoder.encode([mel], weights)[0]


class MultiAspectRun:
    """Grades one recording as its samples arrive.

    Args:
        config: The grader's configuration.
        stages: Its stages.
        clock: Collects `recogniser`, `features`, `encoder`, `backbone` and `head` times.
        request: The prompt, or the text that is read aloud; of both, one after the other.
    """

    def __init__(
        self,
        config: MultiAspectConfig,
        stages: MultiAspectStages,
        clock: StageClock,
        request: Request,
    ) -> None:
        self._config, self._stages, self._clock = config, stages, clock
        self._recognition = stages.recogniser.start()
        self._speech = speech_frames(config, stages.encode, clock)
        self._track = DeliveryTracker()
        self._samples = 0
        self._reasons: list[str] = []
        self._prompt = np.zeros(config.prompt_width, dtype=np.float32)
        text = prompt_of({"prompt": request.prompt or "", "text": request.text or ""})
        if not text:
            self._reasons.append("no_prompt")
            return
        with clock.scope("backbone"):
            self._prompt, is_cut = stages.judge.prompt(text)
        if is_cut:
            self._reasons.append("prompt_cut")

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take float32 mono samples at 16 kHz; work on every window they close."""
        self._samples += samples.size
        with self._clock.scope("recogniser"):
            self._recognition.push(samples)
        self._speech.push(samples)
        with self._clock.scope("features"):
            self._track.push(samples)

    def provisional(self) -> Grade | None:
        """Return `None`: see the module docstring."""
        return None

    def finish(self) -> Grade | None:
        """Recognise what is left and grade all of it; `None` if no window could be framed."""
        frames = self._speech.finish()
        if frames is None:
            return None
        with self._clock.scope("recogniser"):
            heard = self._recognition.finish()
        reasons = [*self._reasons, *heard.reasons]
        duration_s = self._samples / SAMPLE_RATE_HZ
        words = heard.words
        if len(words) > MAX_WORDS:
            words = words[:MAX_WORDS]
            reasons.append("many_words")
        with self._clock.scope("features"):
            track = self._track.finish()
            features = describe_words(words, track, duration_s, self._stages.analyser)
        reasons += features.reasons
        scorable = bool(features.words) and not set(FATAL).intersection(heard.reasons)
        if not features.words:
            reasons.append("no_words")
        shares = None
        if scorable:
            with self._clock.scope("head"):
                shares = self._stages.judge.judge(frames, self._prompt, features)
        return self._grade(shares, heard.text, features, reasons, duration_s)

    def _grade(
        self,
        shares: _Vector | None,
        text: str,
        features: WordFeatures,
        reasons: list[str],
        duration_s: float,
    ) -> Grade:
        config = self._config
        scores = {}
        if shares is not None:
            for aspect, row in zip(config.aspects, shares.astype(np.float64), strict=True):
                scores[aspect.name] = aspect.score(
                    float(row @ np.array(config.class_scores)),
                    duration_s=duration_s,
                    probabilities=dict(zip(config.classes, row.tolist(), strict=True)),
                )
        return Grade(
            scores,
            words=tuple(Word(w.text, w.start_s, w.end_s, w.probability) for w in features.words),
            transcript=clean(text),
            features=features.named,
            reasons=tuple(dict.fromkeys(reasons)),
            scorable=shares is not None,
        )


def _open_torch(bundle: Bundle, precision: str, threads: int) -> MultiAspectStages:
    from asa_engine.graders.multi_aspect.reference import TorchStages, backbone_path

    config = MultiAspectConfig.from_dict(bundle.config)
    reference = TorchStages(bundle.path)
    folder = backbone_path(config, "recogniser")
    recogniser = Recogniser.open(folder, precision="int8", threads=threads)
    libraries = dict(runtime("torch").availability().versions)
    return MultiAspectStages(recogniser, reference.encode, reference, reference.analyser, libraries)


def _open(backend: str, bundle: Bundle, precision: str, threads: int) -> MultiAspectStages:
    config = MultiAspectConfig.from_dict(bundle.config)
    libraries = dict(runtime(backend).availability().versions)

    def file(stage: str) -> Path:
        return bundle.file(stage, backend, precision)

    libraries |= runtime("onnxruntime").availability().versions
    # The words decide the score in steps: every variant hears them with one and the same
    # recogniser, the one that the grader was trained on.
    recogniser = Recogniser.open(file("recogniser").parent, precision="int8", threads=threads)
    if config.hears_waves:
        encode = wave_encode(file("encoder"), threads)
    elif backend == "native":
        encode = native_encode(file("encoder"), config, precision, threads)
    else:
        encode = onnx_encode(file("encoder"), threads)
    judge = OnnxJudge(file("text_encoder"), file("aspects"), config, threads)
    return MultiAspectStages(recogniser, encode, judge, open_analyser(config.analyser), libraries)


ENTRY: GraderEntry[MultiAspectConfig, MultiAspectStages] = GraderEntry(
    name="multi_aspect",
    summary="accuracy, fluency, prosody and total from content, delivery and language use (S2)",
    exact_when="words and frames of closed windows are final; delivery, language use and scores "
    "come at the end of the speech",
    config=MultiAspectConfig.from_dict,
    backends=openers(_open, "onnxruntime", "native", torch=_open_torch),
    run=MultiAspectRun,
    uses=("text", "prompt"),
    extra="recogniser,linguistic",
    trainer="asa_engine.training.multi_aspect.trainer:train",
    recipe="asa_engine.training.multi_aspect.recipe:MultiAspectRecipe",
    exporter="asa_export.multi_aspect:EXPORTER",
)
