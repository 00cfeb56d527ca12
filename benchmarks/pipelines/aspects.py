"""The multi-aspect grader as others would build it: what `text.py` compares it with.

Hugging Face's Whisper `generate` with token times, librosa's pYIN and RMS, spaCy or Stanza, the
PyTorch encoders and grader, fp32. It needs librosa and the extras `train` and `linguistic`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
from numpy.typing import NDArray

from asa_engine.assessment import Word
from asa_engine.features.delivery import HOP_SAMPLES, LOUD_PERCENTILE, Track
from asa_engine.graders.multi_aspect.features import SpeechFrames, describe_words
from asa_engine.graders.multi_aspect.reference import TorchStages, backbone_path
from asa_engine.kernels import log_mel
from asa_engine.nn.hugging_face import build_whisper
from asa_engine.profiling import StageClock
from asa_engine.recogniser.vocabulary import Vocabulary

RATE_HZ = 16_000
WINDOW = 30 * RATE_HZ
MIN_SAMPLES = 1600
LOW_HZ, HIGH_HZ = 65.406, 2093.005  # C2 to C7, as the paper's code has it

Samples = NDArray[np.float32]


class Pipeline:
    """Everything that does not depend on the recording.

    Args:
        checkpoint: The grader's.
        threads: PyTorch's.
    """

    def __init__(self, checkpoint: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.stages = TorchStages(checkpoint)
        self.config = self.stages._config
        folder = backbone_path(self.config, "recogniser")
        self.whisper = build_whisper(folder)
        self.vocabulary = Vocabulary.read(folder)

    def start(self) -> Recording:
        """Start on one recording."""
        return Recording(self)

    def words(self, samples: Samples) -> list[Word]:
        """Transcribe windows of 30 s with `generate`, times and probabilities token by token."""
        words: list[Word] = []
        for begin in range(0, len(samples), WINDOW):
            window = samples[begin : begin + WINDOW]
            if len(window) >= MIN_SAMPLES:
                words += self._window(window, begin / RATE_HZ)
        return words

    def _window(self, samples: Samples, offset_s: float) -> list[Word]:
        padded = np.zeros(WINDOW, np.float32)
        padded[: len(samples)] = samples
        with torch.inference_mode():
            out = self.whisper.generate(
                torch.from_numpy(log_mel(padded, self.whisper.config.num_mel_bins))[None],
                attention_mask=torch.ones(1, WINDOW // HOP_SAMPLES, dtype=torch.long),
                max_new_tokens=224,
                do_sample=False,
                num_beams=1,
                return_dict_in_generate=True,
                return_token_timestamps=True,
                output_scores=True,
            )
        scores = torch.stack(out["scores"])[:, 0].softmax(-1)
        ids = out["sequences"][0].tolist()
        first = len(ids) - len(scores)
        times = out["token_timestamps"][0].tolist()
        text = [i for i in range(first, len(ids)) if ids[i] < self.vocabulary.end]
        last_s = len(samples) / RATE_HZ
        words, at = [], 0
        for group in self.vocabulary.words([ids[i] for i in text]):
            place = text[at : at + len(group)]
            at += len(group)
            after = times[text[at]] if at < len(text) else times[-1]
            shares = [float(scores[i - first, ids[i]]) for i in place]
            words.append(
                Word(
                    self.vocabulary.text(group).strip(),
                    offset_s + min(times[place[0]], last_s),
                    offset_s + min(after, last_s),
                    float(np.mean(shares)),
                )
            )
        return [word for word in words if any(c.isalnum() for c in word.text)]


class Recording:
    """One recording; everything happens at its end."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._samples: list[Samples] = []

    def push(self, samples: Samples) -> None:
        """Keep samples."""
        self._samples.append(samples)

    def finish(self) -> dict[str, Any]:
        """Return scores, one an aspect."""
        pipeline, samples = self._pipeline, np.concatenate(self._samples)
        speech = SpeechFrames(pipeline.config, pipeline.stages.encode, StageClock())
        speech.push(samples)
        frames = speech.finish()
        words = pipeline.words(samples)
        duration_s = len(samples) / RATE_HZ
        features = describe_words(words, track(samples), duration_s, pipeline.stages.analyser)
        if frames is None or not features.words:
            return {"scores": []}
        prompt = np.zeros(pipeline.config.prompt_width, np.float32)
        shares = pipeline.stages.judge(frames, prompt, features).astype(np.float64)
        return {"scores": (shares @ np.array(pipeline.config.class_scores)).tolist()}


def track(samples: Samples) -> Track:
    """Return librosa's pitch and energy, as the grader's own tracker defines them."""
    f0, _, _ = librosa.pyin(
        samples, fmin=LOW_HZ, fmax=HIGH_HZ, sr=RATE_HZ, hop_length=HOP_SAMPLES, fill_na=0.0
    )
    energy = librosa.feature.rms(
        y=samples, frame_length=2 * HOP_SAMPLES, hop_length=HOP_SAMPLES, pad_mode="constant"
    )[0]
    count = min(len(f0), len(energy))
    loud = float(np.percentile(energy, LOUD_PERCENTILE))
    relative = energy[:count] / loud if loud > 0 else np.zeros(count)
    return Track(f0[:count].astype(np.float32), relative.astype(np.float32))
