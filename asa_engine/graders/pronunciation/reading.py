"""One reading of a known text, laid over its frames and written by the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from asa_engine.graders.pronunciation.describe import Described, Sounds, describe_text
from asa_engine.graders.pronunciation.measures import Array, Forced, Segments
from asa_engine.graders.pronunciation.plan import (
    Group,
    Plan,
    groups_of,
    lay,
    leaps_of,
    tokens_of,
)
from asa_engine.graders.pronunciation.stages import Stages

__all__ = ["Heard", "Quiet", "TextReading", "forced_of", "read_text"]

Quiet = Mapping[tuple[int, ...], Array]
"""Tokens -> their log-probabilities, and their end's, where nothing is heard."""


class Heard(NamedTuple):
    """A recording as the encoder and the phone layer heard it.

    Attributes:
        frames: Frames of the last two layers side by side, float32 [T, 2 D].
        phones: Log-probabilities of silence and the phones, [T, C].
        levels: Level of each frame, dB, [T].
    """

    frames: Array
    phones: Array
    levels: Array


class TextReading(NamedTuple):
    """A reading in numbers.

    Attributes:
        sounds: The sounds of the text, of each word the pronunciation that fits best.
        fit: `Alignment.fit`.
        described: Phones, words and the whole in numbers.
        forced: What the decoder said.
        leaps: Of `leaps_of`.
        groups: What the decoder heard at once.
    """

    sounds: Sounds
    fit: float
    described: Described
    forced: Forced
    leaps: Array
    groups: tuple[Group, ...]

    @property
    def blocks(self) -> tuple[slice, ...]:
        """Phones of each group."""
        edges = np.searchsorted(self.sounds.owners, [group.words[0] for group in self.groups])
        ends = [*edges[1:].tolist(), len(self.sounds.owners)]
        return tuple(slice(a, b) for a, b in zip(edges.tolist(), ends, strict=True))


def read_text(
    stages: Stages, heard: Heard, plan: Plan, usual: Array, quiet: Quiet
) -> TextReading | None:
    """Lay a text over a recording and let the decoder write it.

    Args:
        stages: What it runs on.
        heard: The recording.
        plan: The text.
        usual: How long each phone usually is.
        quiet: What is known of texts over silence; the rest is found out.

    Returns:
        `None` where the recording has fewer frames than the text has sounds.
    """
    found = lay(heard.phones, plan.words)
    if found is None:
        return None
    sounds, alignment = found
    segments = Segments(alignment.spans, sounds.classes, sounds.owners, sounds.stress)
    groups = groups_of(segments.word_spans, plan.owners, len(heard.frames))
    forced, leaps = forced_of(stages, heard.frames, plan, groups, quiet)
    described = describe_text(
        heard.frames, heard.phones, heard.levels, segments, alignment.fit, forced, usual
    )
    return TextReading(sounds, alignment.fit, described, forced, leaps, groups)


def forced_of(
    stages: Stages, frames: Array, plan: Plan, groups: tuple[Group, ...], quiet: Quiet
) -> tuple[Forced, Array]:
    """Let the decoder write a text, group by group, over its frames and over silence.

    Returns:
        What it says, and `leaps_of`.
    """
    width = frames.shape[1] // 2
    spoken = [word.spoken for word in plan.words]
    texts = [tokens_of(stages.vocabulary, spoken[slice(*group.words)]) for group in groups]
    # In one piece: of five minutes and seven hundred words it is 45 MB.
    rows = sum(len(tokens) for tokens, _ in texts) + 1
    attended = np.zeros((rows, len(frames)), np.float32)
    row = 0
    leaps = []
    parts = []
    for group, (tokens, owners) in zip(groups, texts, strict=True):
        begin, end = group.frames
        written = stages.write(frames[begin:end, width:], tokens)
        if (silent := quiet.get(tokens)) is None:
            silent = stages.write_quiet(tokens)
        # Of the ends of texts only the last one stays.
        count = len(tokens) + (group is groups[-1])
        attended[row : row + count, begin:end] = written.attended[:count]
        row += count
        leaps.append(leaps_of(stages.vocabulary, tokens, owners, written.other))
        parts.append((written, silent, owners + group.words[0]))
    is_last = [part is parts[-1] for part in parts]

    def joined(name: str) -> Array:
        found: Array = np.concatenate(
            [
                getattr(written, name) if last else getattr(written, name)[:-1]
                for (written, *_), last in zip(parts, is_last, strict=True)
            ]
        )
        return found

    silence = np.concatenate(
        [own if last else own[:-1] for (_, own, _), last in zip(parts, is_last, strict=True)]
    )
    forced = Forced(
        own=joined("own"),
        best=joined("best"),
        rank=joined("rank"),
        entropy=joined("entropy"),
        quiet=silence,
        attended=attended,
        att_entropy=joined("att_entropy"),
        att_peak=joined("att_peak"),
        owners=np.concatenate([owners for *_, owners in parts]),
    )
    return forced, np.concatenate(leaps)
