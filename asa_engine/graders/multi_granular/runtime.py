"""The multi-granular grader at run time: audio is prefilled as it comes, the verdict comes last.

[prompt's beginning][audio tokens][the text][slot of the recording][verdict][rationale]: a closed
window's audio tokens go into the language model at once. When the speech ends the text is laid
over it, and the verdict is written along its script: labels are chosen, all else is forced. The
sentence's labels are judged first, whatever stands before each (`marginals`); then the likeliest of
each are what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from asa_engine.assessment import Grade, Phone, Score, Word
from asa_engine.bundle import Bundle
from asa_engine.errors import AudioError, UsageError
from asa_engine.features.phone_alignment import Alignment, align
from asa_engine.graders.entry import GraderEntry
from asa_engine.graders.multi_granular.config import ASPECTS, MultiGranularConfig
from asa_engine.graders.multi_granular.marginals import Shares, marginals, shares_of
from asa_engine.graders.multi_granular.plan import plan_of, spoken_words
from asa_engine.graders.multi_granular.stages import (
    STAGE_NAMES,
    MultiGranularStages,
    Stages,
    TorchStages,
)
from asa_engine.graders.multi_granular.verdict import LABELS
from asa_engine.graders.speech_llm.config import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from asa_engine.graders.windows import WindowedRun, log_mel_windows
from asa_engine.language_model.decoding import decode
from asa_engine.language_model.grammar import Choice, Forced, Segment, Walk
from asa_engine.profiling import StageClock
from asa_engine.request import Request
from asa_engine.runtimes.torch import TorchRuntime
from asa_engine.text import Lexicon

if TYPE_CHECKING:
    pass

__all__ = ["ENTRY", "MISMATCH", "MultiGranularRun"]

MISMATCH = "text_mismatch"
GUESSED = "guessed_pronunciation"
WORD_SCORE = "accuracy"
_NO_TEXTS = Request()
_OF_SENTENCE = 2 * len(ASPECTS)
"""Segments of the script, forced and chosen in turn, that the sentence's labels take."""
_PHONE_MAX = 2.0
_WORD_MAX = 10.0

Array = NDArray[np.float32]


class MultiGranularRun(WindowedRun):
    """Judges one recording of a text as its samples arrive.

    Args:
        config: The grader's configuration.
        stages: Its stages.
        clock: Collects `features`, `encoder`, `backbone` and `head` times.
        request: The text that was read.
        sentence_only: Stop once the sentence has its scores, which nothing later changes.

    Attributes:
        on_text: Called with every further piece of the rationale as soon as it is certain.

    Raises:
        UsageError: There is no text, or it cannot be judged: `words_of`, `spoken_words`.
    """

    def __init__(
        self,
        config: MultiGranularConfig,
        stages: Stages,
        clock: StageClock,
        request: Request = _NO_TEXTS,
        *,
        sentence_only: bool = False,
    ) -> None:
        if request.text is None:
            raise UsageError(
                "this grader judges the reading of a text, and none was given",
                hint="give the text that was read: --text",
            )
        words = spoken_words(config, stages.lexicon, request.text)
        self._plan = plan_of(config, stages.text, words)
        prompt = len(config.prefix_ids) + config.max_audio_tokens
        capacity = prompt + self._plan.most_tokens
        stages.check(capacity)
        self._config = config
        self._stages = stages
        self._clock = clock
        self._mel = log_mel_windows(config)
        self._sentence_only = sentence_only
        self._samples = 0
        self._frames: list[Array] = []
        with clock.scope("backbone"):
            self._reading = stages.start(capacity)
        self.on_text: Callable[[str], None] | None = None

    def push(self, samples: Array) -> None:
        """Take float32 mono samples at 16 kHz; encode and prefill every window they close.

        Raises:
            AudioError: The recording is longer than the grader takes.
        """
        self._samples += samples.size
        if self._samples > self._config.max_samples:
            raise AudioError(
                f"the recording is longer than {self._config.max_audio_s:g} s",
                hint="judge it sentence by sentence",
            )
        self._hear(samples)

    def provisional(self) -> Grade | None:
        """Return nothing: a text is aligned with the whole of a recording."""
        return None

    def finish(self) -> Grade | None:
        """Encode what is left, judge; `None` if no window could be framed."""
        self._hear_rest()
        if not self._frames:
            return None
        frames = np.concatenate(self._frames)
        with self._clock.scope("head"):
            heard = self._stages.hear(frames)
            aligned = align(heard, self._plan.classes, self._plan.owners)
        if aligned is None or aligned.fit < self._config.least_fit:
            return Grade({}, reasons=(MISMATCH,), scorable=False)
        with self._clock.scope("head"):
            slots = self._stages.slots(frames, heard, aligned, self._plan)
        return self._judge(aligned, slots)

    def _take(self, mel: Array) -> None:
        with self._clock.scope("encoder", frames=mel.shape[1]):
            frames = self._stages.frames(mel)
        self._frames.append(frames)
        with self._clock.scope("backbone"):
            self._reading.extend(self._stages.audio(frames))

    def _judge(self, aligned: Alignment, slots: Array) -> Grade:
        plan, config = self._plan, self._config
        vocabulary = _Vocabulary(self._stages, slots, config.language_model.vocabulary)
        with self._clock.scope("backbone"):
            sentence = self._sentence(vocabulary)
        seconds = self._samples / SAMPLE_RATE_HZ
        scores = {}
        for aspect, share in zip(config.aspects, sentence, strict=True):
            scores[aspect.name] = aspect.score(
                float(share @ config.label_scores[aspect.name]),
                duration_s=seconds,
                probabilities=_named(share),
            )
        reasons = (GUESSED,) if any(word.guessed for word in plan.words) else ()
        if self._sentence_only:
            return Grade(scores, reasons=reasons)
        labels = [int(share.argmax()) for share in sentence]
        rest = plan.script[_OF_SENTENCE:]
        walk = Walk((Forced(_written(plan.script[1:_OF_SENTENCE], labels)), *rest))
        vocabulary.decided.clear()  # what is asked from here on is of words and phones
        with self._clock.scope("backbone"):
            rationale = self._write(walk, vocabulary)
        shares = [
            shares_of([logits[option[0]] for option in choice.options])
            for choice, logits in zip(
                (s for s in rest if isinstance(s, Choice)), vocabulary.decided, strict=True
            )
        ]
        words = self._words(aligned, walk.chosen, shares)
        return Grade(scores, words=words, rationale=rationale or None, reasons=reasons)

    def _sentence(self, vocabulary: _Vocabulary) -> list[Shares]:
        """Run what stands before the first label; return the probabilities of the sentence's."""
        first, *script = self._plan.script[:_OF_SENTENCE]
        assert isinstance(first, Forced)  # a verdict begins with a line's name
        rows = vocabulary.embed((*self._plan.before, *first.ids))
        hidden = self._reading.extend(rows)[-1]
        return marginals(self._reading, vocabulary, hidden, script)

    def _write(self, walk: Walk, vocabulary: _Vocabulary) -> str:
        """Walk the script; return the rationale, handing its pieces out as they come."""
        said = ""
        start = np.zeros(0, np.float32)  # the script begins with forced tokens
        for _ in decode(walk, self._reading, vocabulary, start):
            if self.on_text is not None and walk.written:
                text = self._stages.text.decode(walk.written)
                # A character of several tokens is not whole before its last.
                if len(text) > len(said) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
                    self.on_text(text[len(said) :])
                    said = text
        return self._stages.text.decode(walk.written).strip()

    def _words(
        self, aligned: Alignment, chosen: Sequence[int], shares: Sequence[Shares]
    ) -> tuple[Word, ...]:
        plan, config = self._plan, self._config
        first_phone = len(plan.words)
        frame_s = SAMPLES_PER_FRAME / SAMPLE_RATE_HZ
        words = []
        at = 0
        for index, word in enumerate(plan.words):
            phones = []
            begin = at
            for phone in word.phones:
                share = shares[first_phone + at]
                phones.append(
                    Phone(
                        phone,
                        LABELS[chosen[first_phone + at]],
                        _score(share, config.label_scores["phone"], _PHONE_MAX),
                    )
                )
                at += 1
            share = shares[index]
            words.append(
                Word(
                    word.text,
                    start_s=round(float(aligned.spans[begin, 0]) * frame_s, 3),
                    end_s=round(float(aligned.spans[at - 1, 1]) * frame_s, 3),
                    label=LABELS[chosen[index]],
                    scores={WORD_SCORE: _score(share, config.label_scores["word"], _WORD_MAX)},
                    phones=tuple(phones),
                )
            )
        return tuple(words)


class _Vocabulary:
    """The language model's tokens and one recording's slots; it remembers what labels got."""

    def __init__(self, stages: Stages, slots: Array, size: int) -> None:
        self._stages = stages
        self._slots = slots
        self._size = size
        self.decided: list[dict[int, float]] = []
        self.all = stages.all

    def embed(self, ids: tuple[int, ...]) -> Array:
        rows = self._stages.embed(tuple(min(token, self._size - 1) for token in ids))
        wanted = np.array(ids)
        special = wanted >= self._size
        if special.any():
            rows = rows.copy()
            rows[special] = self._slots[wanted[special] - self._size]
        return rows

    def some(self, hidden: Array, ids: tuple[int, ...]) -> Array:
        logits = self._stages.some(hidden, ids)
        self.decided.append(dict(zip(ids, logits.tolist(), strict=True)))
        return logits


def _written(script: Sequence[Segment], labels: Sequence[int]) -> tuple[int, ...]:
    """Return the tokens of forced texts and of choices between them."""
    chosen = iter(labels)
    ids: list[int] = []
    for segment in script:
        if isinstance(segment, Choice):
            ids += segment.options[next(chosen)]
        elif isinstance(segment, Forced):
            ids += segment.ids
    return tuple(ids)


def _named(share: Shares) -> dict[str, float]:
    return dict(zip(LABELS, share.tolist(), strict=True))


def _score(share: Shares, points: Sequence[float], most: float) -> Score:
    value = min(max(float(share @ np.array(points)), 0.0), most)
    return Score(value, 0.0, most, probabilities=_named(share))


def _open(bundle: Bundle, precision: str, threads: int) -> Stages:
    config = MultiGranularConfig.from_dict(bundle.config)
    files = {name: bundle.file(name, "onnxruntime", precision) for name in STAGE_NAMES}
    return MultiGranularStages(config, files, precision=precision, threads=threads)


def _open_torch(bundle: Bundle, precision: str, threads: int) -> Stages:
    TorchRuntime.need(threads, precision)
    from asa_engine.graders.multi_granular.model import LEXICON_NAME, MultiGranular

    lexicon = Lexicon.read([bundle.path / LEXICON_NAME])
    return TorchStages(MultiGranular.load(bundle.path), lexicon)


ENTRY = GraderEntry(
    name="multi_granular",
    summary="S5: labels of sentence, words and phones, and a rationale, by a language model",
    exact_when="audio is prefilled when a window closes; the verdict when the speech ends",
    config=MultiGranularConfig.from_dict,
    backends={"onnxruntime": _open, "torch": _open_torch},
    run=MultiGranularRun,
    score=partial(MultiGranularRun, sentence_only=True),
    uses=("text",),
    requires=("text",),
    extra="recogniser",
    trainer="asa_engine.training.multi_granular.trainer:train",
    recipe="asa_engine.training.multi_granular.recipe:MultiGranularRecipe",
    exporter="asa_export.multi_granular:EXPORTER",
)
