// Whisper's log-mel spectrogram, fused: framing, Hann window, real FFT of 400, power, mel, log10.
#pragma once

#include <cstddef>
#include <vector>

namespace asa {

inline constexpr int kSampleRate = 16000;
inline constexpr int kFft = 400;
inline constexpr int kHop = 160;
inline constexpr int kBins = kFft / 2 + 1;
inline constexpr int kEdge = kFft / 2;  // samples mirrored at both ends of a window
inline constexpr int kMaxMels = 128;
inline constexpr int kFrameBlock = 16;  // frames a kernel call handles: the widest vector

// Constant tables; one a number of mel bins.
struct LogMelPlan {
  // Throws std::invalid_argument unless n_mels is in [1, kMaxMels].
  explicit LogMelPlan(int n_mels);

  int n_mels;
  float window[kFft];           // periodic Hann, halved: the real FFT's split needs the half
  float twiddle_cos[kFft / 2];  // of the 8 x 25 complex FFT, at [k1 * 25 + n2]
  float twiddle_sin[kFft / 2];
  float split_cos[kFft / 4 + 1];  // exp(-2 pi i k / 400)
  float split_sin[kFft / 4 + 1];
  int mel_first[kMaxMels];       // first FFT bin of each filter
  int mel_offset[kMaxMels + 1];  // where its weights start in mel_weight
  float mel_weight[2 * kBins];   // Slaney filters, their non-zero spans end to end
};

// The log-mel of one window whose samples arrive in pieces of any size.
// Every frame is computed in the same block and lane whatever the pieces, so results are bit-equal.
class LogMelWindow {
 public:
  LogMelWindow(int n_mels, std::size_t window_samples);

  int n_mels() const { return plan_.n_mels; }
  std::size_t window_samples() const { return window_samples_; }
  std::size_t samples() const { return count_; }
  int frames() const { return static_cast<int>(count_ / kHop); }

  // Throws std::invalid_argument if the window would overflow or a sample is not finite.
  void push(const float* samples, std::size_t count);

  // Throws std::invalid_argument if the window holds too few samples to mirror its edges.
  void check_closable() const;

  // Writes [n_mels, frames()] and starts the next window.
  void close(float* out);

  void reset();

 private:
  void run_block(int first_frame, int frames);

  LogMelPlan plan_;
  std::size_t window_samples_;
  std::size_t count_ = 0;
  int done_ = 0;               // frames already in log_power_
  int stride_;                 // frames a row of log_power_ holds
  std::vector<float> padded_;  // kEdge mirrored samples, the window, kEdge mirrored samples
  std::vector<float> log_power_;
};

// Throws std::invalid_argument if a window of these samples has no log-mel.
void check_log_mel(int n_mels, const float* samples, std::size_t count);

// The log-mel of a whole window, [n_mels][count / kHop], bit-equal to LogMelWindow's: samples are
// read where they are, and nothing but `out` is written. check_log_mel() comes first.
void log_mel(int n_mels, const float* samples, std::size_t count, float* out);

}  // namespace asa
