// Whisper's log-mel spectrogram of every window of a ragged batch, laid out for the first
// convolution: frames end to end, a zero frame before and after each window.
#pragma once

#include "asa/cuda/ragged.h"
#include "asa/log_mel.h"

namespace asa::cuda {

// LogMelPlan's tables, where the kernel reads them.
struct MelTables {
  explicit MelTables(const LogMelPlan& plan);

  float window[kFft];
  float twiddle[kFft / 2][2];  // of the 8 x 25 transform: cosine and sine, at [k1 * 25 + n2]
  float root25[17][2];         // of the 5 x 5 transform
  float split[kFft / 4 + 1][2];
  float mel_weight[2 * kBins];
  int mel_first[kMaxMels];
  int mel_offset[kMaxMels + 1];
};

struct LogMel {
  const float* input;       // samples, or log-mel frames [frames][mels], as Ragged says
  const MelTables* tables;  // in the GPU's memory; null: the input is log-mel frames
  int mels;
  int stride;    // of a frame in `power` and `out`, a multiple of 8
  float* power;  // [mel frames and zero frames][stride], scratch
  int* top;      // [windows], scratch; set to kLowestTop before
  void* out;     // as `power`, in the format
};

inline constexpr int kLowestTop = 0x80;  // the byte to fill `top` with

// A window with a sample that is not finite is NaN throughout.
void log_mel(Stream& stream, Format format, const LogMel& log_mel, const Ragged& ragged);

}  // namespace asa::cuda
