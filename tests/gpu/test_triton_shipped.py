"""The shipped grader whole on Triton's kernels, samples in, scores out: half a minute alone."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_samples import speech_like

from asa_engine.bundle import Bundle
from asa_engine.graders.acoustic.backends.cuda import CudaBackend
from asa_engine.graders.acoustic.backends.native import NativeBackend
from asa_engine.kernels import log_mel

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("triton", reason="needs the extra 'cuda'")

from asa_engine.gpu.triton.device import TritonDevice  # where triton is


def test_scores_are_those_of_the_cpu() -> None:
    bundle, samples = Bundle.open("acoustic"), speech_like(8_000)
    ours = CudaBackend(TritonDevice.find(), bundle, precision="fp16", threads=1)
    native = NativeBackend.open(bundle, precision="fp32", threads=1)
    expected = native.head(native.encode(log_mel(samples)).stats)
    found = ours.encode_many([samples])
    # fp16 moves a score of real speech by 0.0004 RMS of 10; this is one window of half a second.
    np.testing.assert_allclose(found.scores[0], expected.scores, rtol=0, atol=5e-3)
    np.testing.assert_allclose(found.prior[0], expected.prior, rtol=0, atol=5e-3)
