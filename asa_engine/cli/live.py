"""What is shown while a recording is heard: words as they are passed, or provisional scores."""

from __future__ import annotations

from typing import TextIO

from asa_engine.assessment import Assessment
from asa_engine.cli.words import Paint, live_line, passed_line
from asa_engine.stream import Stream
from asa_engine.text import speak

__all__ = ["LiveView"]

_BESIDE_THE_TEXT = ("insertion", "repetition")


class LiveView:
    """Shows a stream's state.

    On a terminal the words of the text stand in one line, each coloured when it is passed;
    elsewhere every word gets a line. Graders that do not follow a text show their scores.

    Args:
        out: Where it is shown.
        text: What is read, if it is known.
    """

    def __init__(self, out: TextIO, text: str | None) -> None:
        self._out = out
        self._paint = Paint.of(out)
        self._text = [word.spoken for word in speak(text).words] if text else []
        self._shown: object = None
        self._passed = 0
        self._open = False

    def update(self, stream: Stream, heard_s: float) -> None:
        """Show what changed.

        Args:
            stream: Which was fed.
            heard_s: Seconds of the recording so far.
        """
        scores, words = stream.provisional, stream.provisional_words
        if not scores and not words:
            return
        if (scores, words) == self._shown:
            return
        self._shown = (scores, words)
        if not words:
            said = "  ".join(f"{n} {score.value:.1f}" for n, score in (scores or {}).items())
            print(f"{heard_s:6.1f} s  {said}", file=self._out, flush=True)
        elif self._out.isatty():
            of_text = sum(word.error not in _BESIDE_THE_TEXT for word in words)
            line = live_line(words, self._text[of_text:], self._paint)
            print(f"\r\x1b[K{line}", end="", file=self._out, flush=True)
            self._open = True
        else:
            for word in words[self._passed :]:
                print(passed_line(word, heard_s), file=self._out, flush=True)
            self._passed = max(self._passed, len(words))

    def close(self) -> None:
        """End the line that is being shown."""
        if self._open:
            print(file=self._out, flush=True)
            self._open = False

    def finish(self, stream: Stream) -> Assessment:
        """End the speech; show a rationale as it is written, and return the assessment."""
        self.close()
        return stream.finish(self._say)

    def _say(self, text: str) -> None:
        print(text, end="", file=self._out, flush=True)
