"""What a window costs in multiply-adds, and what a Raspberry Pi would need for it: an estimate.

    python -m benchmarks.device_operations

The encoder's kernels count their own work; the detector's and the head's follow from their shapes.
Peaks are others' figures, not measured here: a time is multiply-adds over peak times a share of it.
The table in docs/devices.md comes from here.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asa_engine.bundle import Bundle
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.kernels.encoder import Encoder
from asa_engine.kernels.laps import TASK

WINDOWS = ((4.0, 4.0), (5.0, 5.0), (30.0, 30.0), (30.0, 4.0))  # s of audio, s of a window
PRECISIONS = ("fp32", "int8")
SHARES = (0.3, 0.6)  # of the peak: what such kernels reach elsewhere, from worse to better

# Silero's network, in multiply-adds a frame of 32 ms: four spectra, four convolutions, an LSTM.
VOICE_FRAMES_PER_S = 31.25
VOICE = 4 * 258 * 256 + 3 * (4 * 129 * 128 + 2 * 128 * 64 + 64 * 64 + 64 * 128) + 4 * 128 * 256


@dataclass(frozen=True, slots=True)
class Device:
    """A board, with multiply-adds a cycle and core.

    fp32: the Cortex-A72's 8 operations a cycle were measured by others (15.9 GFLOP/s at 2.0 GHz);
    the Cortex-A76 has twice its vector units. int8: the A72 is taken to multiply bytes on one of
    two pipes, two instructions for 16 products; the A76 makes two dot products of 16 a cycle.
    """

    name: str
    ghz: float
    fp32: float
    int8: float


DEVICES = (
    Device("Raspberry Pi 4 (Cortex-A72, 1.5 GHz)", 1.5, 4, 8),
    Device("Raspberry Pi 5 (Cortex-A76, 2.4 GHz)", 2.4, 8, 32),
)


def encoder_of(config: AcousticConfig, precision: str) -> Encoder:
    """The grader's encoder, for windows of any length; counts do not see its random weights."""
    rng = np.random.default_rng(0)

    def read(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)

    longest = dataclasses.replace(config.encoder, positions=1500)
    return Encoder(longest, read, precision=precision, threads=1)


def multiply_adds(
    encoder: Encoder, config: AcousticConfig, seconds: float, window_s: float
) -> Counter[str]:
    """Precision -> multiply-adds of one recording: its windows, the detector and the head."""
    window, frames = round(100 * window_s), round(100 * seconds)
    windows = [window] * (frames // window) + [frames % window] * (frames % window > 0)
    rng = np.random.default_rng(1)
    bins = config.encoder.n_mels
    encoder.record(True)
    for count in windows:
        encoder.encode([rng.uniform(-1, 1, (bins, count)).astype(np.float32)])
    found: Counter[str] = Counter()
    for lap in encoder.take_laps():
        if lap.step != TASK:  # beside bytes NEON multiplies float32, whatever this CPU does
            found["int8" if lap.precision == "int8" else "fp32"] += int(lap.operations) // 2
    width, outputs = config.encoder.d_model, config.encoder.layers + 1
    head = config.kernel_centres * config.kernel_width + outputs * width * config.kernel_width
    pooled = frames // 2 * width * (config.attention_heads + outputs)
    found["fp32"] += round(VOICE * VOICE_FRAMES_PER_S * seconds) + head + pooled
    return found


def main() -> None:
    """Print one line a precision and length, then one a device."""
    config = AcousticConfig.from_dict(Bundle.open("acoustic").config)
    print("millions of multiply-adds")
    print(f"{'audio s':>8}{'window s':>10}{'precision':>11}{'fp32':>8}{'int8':>8}")
    for precision in PRECISIONS:
        encoder = encoder_of(config, precision)
        for seconds, window_s in WINDOWS:
            found = multiply_adds(encoder, config, seconds, window_s)
            millions = {name: found[name] / 1e6 for name in PRECISIONS}
            row = "".join(f"{millions[name]:>8.0f}" for name in PRECISIONS)
            print(f"{seconds:>8g}{window_s:>10g}{precision:>11}{row}")
            for device in DEVICES:
                cycles = sum(found[name] / getattr(device, name) for name in PRECISIONS)
                best = cycles / device.ghz / 1e9
                low, high = (best / share for share in reversed(SHARES))
                print(f"{'':>8}{device.name}, one core: {low:.2f} to {high:.2f} s")


if __name__ == "__main__":
    main()
