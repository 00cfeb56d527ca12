"""The whole flow: audio -> features -> encoder -> prior -> head -> Assessment.

    engine = load()                       bundle checked, backend chosen and opened
    engine.assess(source)                 read blocks -> Stream.feed -> Stream.finish
    engine.stream()                       the same Stream, fed by the caller
    engine.session()                      for graders that hear a session of responses at once

There is one path: a file is a stream whose chunks come from a decoder. So streamed equals offline.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asa_engine import kernels
from asa_engine.assessment import Assessment
from asa_engine.audio import SAMPLE_RATE_HZ, AudioChunk, AudioSource, open_audio, read_blocks
from asa_engine.audio.decode import named
from asa_engine.audio.front import SpeechFront
from asa_engine.audio.intake import Intake
from asa_engine.bundle import Bundle
from asa_engine.errors import AudioError, UsageError
from asa_engine.graders import grader_entry
from asa_engine.profiling import StageClock
from asa_engine.request import Request
from asa_engine.runtimes.gate import Gate
from asa_engine.selection import AUTO, FAKE, check_threads, choose, choose_threads, is_held
from asa_engine.session_stream import SessionStream
from asa_engine.stream import Stream

__all__ = ["Embedding", "Engine", "load", "open_bundle"]


class Embedding(NamedTuple):
    """Encoder frames of a recording.

    Attributes:
        frames: float32 [T, D].
        frame_rate_hz: Frames a second of audio.
    """

    frames: NDArray[np.float32]
    frame_rate_hz: float


class Engine:
    """A grader, loaded and ready. Made by `load`.

    An engine scores any number of recordings and streams, one after another, interleaved, or from
    several threads, which then take turns. It may be loaded before a fork where it runs on the
    native backend; elsewhere a forked process gets a BackendError and loads its own.

    Attributes:
        bundle: The opened bundle.
        choice: Backend and precision in use, and why.
        threads: Threads a window is encoded with.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: str = AUTO,
        precision: str = AUTO,
        threads: int | None = None,
    ) -> None:
        self.bundle = bundle
        if threads is not None:
            check_threads(threads)
        self._entry = grader_entry(bundle.grader)
        self._config = self._entry.config(bundle.config)
        self.choice = choose(bundle, backend, precision)
        self.threads, self._threads_chosen = choose_threads(bundle, self.choice, threads)
        self._stages = self._entry.open(
            bundle, self.choice.backend, self.choice.precision, self.threads
        )
        SpeechFront()  # opens the speech detector now, not in the first learner's time
        self._gate = Gate(self.choice.backend, self._stages.versions())
        self._receipt = self._describe()

    @property
    def grader(self) -> str:
        """Name of the grader, e.g. "acoustic"."""
        return self._entry.name

    @property
    def uses(self) -> tuple[str, ...]:
        """Which of "text" and "prompt" the grader takes."""
        return self._entry.uses

    @property
    def hears_sessions(self) -> bool:
        """Whether the grader scores whole sessions (`session`), not recordings."""
        return self._entry.session is not None

    @property
    def receipt(self) -> dict[str, Any]:
        """What reproduces a score, less the audio: the receipt of every result has it."""
        return dict(self._receipt)

    @property
    def config(self) -> Any:
        """The grader's configuration."""
        return self._config

    def assess(
        self, source: AudioSource, *, text: str | None = None, prompt: str | None = None
    ) -> Assessment:
        """Score one recording.

        Args:
            source: A path, the bytes of a file, or (samples, sample_rate_hz) with float32 or int16
                samples of shape [n] or [n, channels].
            text: What the learner read, for graders that use it (`uses`).
            prompt: The task, likewise.

        Raises:
            UsageError: A text that the grader does not use, or that cannot be used.
            AudioError: The audio cannot be read. Audio that can be read but not judged (silence,
                no speech...) still gives an Assessment, with `validity.scorable` false.
        """
        with open_audio(source) as audio:
            try:
                return self.assess_blocks(
                    audio.blocks(), audio.sample_rate_hz, text=text, prompt=prompt
                )
            except AudioError as error:
                raise named(error, audio.name) from None

    def assess_blocks(
        self,
        blocks: Iterable[AudioChunk],
        sample_rate_hz: int = 16_000,
        *,
        text: str | None = None,
        prompt: str | None = None,
    ) -> Assessment:
        """Score audio that is all there already, given as chunks; as `assess` otherwise."""
        with self.stream(sample_rate_hz, text=text, prompt=prompt) as stream:
            stream.feed_all(blocks)
            return stream.finish()

    def stream(
        self,
        sample_rate_hz: int = 16_000,
        *,
        text: str | None = None,
        prompt: str | None = None,
    ) -> Stream:
        """Start scoring a stream; feed it chunks of any size while the learner speaks.

        Args:
            sample_rate_hz: Rate of the chunks that will be fed.
            text: What the learner reads, for graders that use it (`uses`).
            prompt: The task, likewise.

        Raises:
            UsageError: A text that the grader does not use, or that cannot be used.
        """
        clock = StageClock()
        request = Request(text, prompt)
        for name in request.given():
            if name not in self._entry.uses:
                raise UsageError(
                    f"the {self.grader} grader does not use a {name}", hint=f"leave out the {name}"
                )
        with self._gate:
            run = self._entry.run(self._config, self._stages, clock, request)
        intake = Intake(sample_rate_hz, self._config.front, clock)
        return Stream(run, clock, self.grader, self._receipt, intake, self._gate)

    def session(self, *, mode: str | None = None, tolerance: float = 0.0) -> SessionStream:
        """Start scoring a session; begin, feed and end its responses, then finish it.

        Args:
            mode: How a grader reads speech behind a prior over all of it: one of
                `asa_engine.language_model.reading_modes.MODES` that suits it; by default its
                exact one.
            tolerance: For "speculative": how far, in total variation from 0 to 1, the prior may
                move before what was read is read again; exact at zero.

        Raises:
            UsageError: The grader scores single recordings, or the mode is not for it.
        """
        if self._entry.session is None:
            raise UsageError(
                f"the {self.grader} grader scores recordings, not sessions as a whole",
                hint="score each response; asa_engine.evaluation.sessions averages them",
            )
        clock = StageClock()
        with self._gate:
            run = self._entry.session(
                self._config, self._stages, clock, mode=mode, tolerance=tolerance
            )
        parts = [part.name for part in self._config.parts]
        front = self._config.front
        return SessionStream(run, clock, self.grader, self._receipt, parts, front, self._gate)

    def embed(self, source: AudioSource) -> Embedding:
        """Return the encoder frames of a recording, all windows.

        Of the pronunciation grader they are the last layer's, of the acoustic one a learned mix of
        all layers'.

        Raises:
            AudioError: The audio cannot be read, or is too short to hold one frame.
            UsageError: The grader has no encoder frames to return.
        """
        if self._entry.embed is None:
            raise UsageError(
                f"the {self.grader} grader embeds nothing", hint="load an acoustic grader"
            )
        with self._gate:
            run = self._entry.embed(self._config, self._stages, StageClock())
        intake = Intake(SAMPLE_RATE_HZ, self._config.front)
        for block in read_blocks(source):
            samples = intake.push(block)
            with self._gate:
                run.push(samples)
        rest = intake.close()
        with self._gate:
            run.push(rest)
            run.finish()
        if not run.frames:
            raise AudioError("the audio is too short to encode")
        return Embedding(np.concatenate(run.frames), run.frame_rate_hz)

    def _describe(self) -> dict[str, Any]:
        """What reproduces a score, less the audio."""
        used = {
            f"{stage}/{name}": self.bundle.artifacts[name].sha256
            for stage, by in self.bundle.stages.items()
            if (name := by.get(self.choice.backend, {}).get(self.choice.precision))
        }
        return {
            "engine_version": metadata.version("asa-engine"),
            "bundle": {
                "name": self.bundle.name,
                "version": self.bundle.version,
                "sha256": self.bundle.sha256,
            },
            "artifacts_sha256": used,
            "backend": self.choice.backend,
            "precision": self.choice.precision,
            "chosen": self.choice.reason,
            "threads": self.threads,
            "threads_chosen": self._threads_chosen,
            "kernel_isa": kernels.isa(),
            "versions": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                **self._stages.versions(),
            },
            "platform": f"{platform.system()} {platform.machine()}",
        }


def load(
    bundle: str | Path | Bundle | None = None,
    *,
    backend: str = AUTO,
    precision: str = AUTO,
    threads: int | None = None,
) -> Engine:
    """Load a bundle and make an engine of it.

    Args:
        bundle: A bundle or checkpoint folder, or "pronunciation" or "acoustic", which ship; `None`
            or "default" for the first of these that runs on what is asked for.
        backend: "auto" or a key of `asa_engine.runtimes.RUNTIMES`.
        precision: "auto", "fp32", "fp16", "bf16", "int8", "int4" or "mixed" (a precision for each
            layer, in bundles that 'asa-engine tune' wrote).
        threads: Threads a window is encoded with; by default as many as
            'asa-engine tune' found fastest, or else the cores at hand, at most four.

    Raises:
        BundleError: The bundle is missing, damaged, or of a newer format.
        BackendError: The backend or precision asked for cannot run here.
        UsageError: An option is out of range.
    """
    if not isinstance(bundle, Bundle | str | Path | None):
        raise UsageError(f"a bundle is a folder, not {type(bundle).__name__}")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, backend, precision)
    return Engine(opened, backend=backend, precision=precision, threads=threads)


def open_bundle(
    bundle: str | Path | None = None, backend: str = AUTO, precision: str = AUTO
) -> Bundle:
    """Open a bundle as `load` does: the default is one that runs on this backend and precision."""

    def able(shipped: Bundle) -> bool:
        if backend not in (AUTO, *grader_entry(shipped.grader).backends):
            return False
        return backend == FAKE or is_held(shipped, backend, precision)

    return Bundle.open(bundle, able)
