// The state of one window, and the constant tables; nothing here depends on the instruction set.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "asa/isa.h"
#include "asa/log_mel.h"

namespace asa {
namespace {

constexpr double kPi = 3.14159265358979323846;

// Slaney's mel scale: linear below 1 kHz, logarithmic above.
double mel_to_hertz(double mel) {
  return mel < 15.0 ? mel * 200.0 / 3.0 : 1000.0 * std::exp((mel - 15.0) * std::log(6.4) / 27.0);
}

double hertz_to_mel(double hertz) {
  return hertz < 1000.0 ? 3.0 * hertz / 200.0
                        : 15.0 + 27.0 * std::log(hertz / 1000.0) / std::log(6.4);
}

}  // namespace

LogMelPlan::LogMelPlan(int mels) : n_mels(mels) {
  if (mels < 1 || mels > kMaxMels) {
    throw std::invalid_argument("n_mels is " + std::to_string(mels) + "; it must be in [1, " +
                                std::to_string(kMaxMels) + "]");
  }
  for (int n = 0; n < kFft; ++n) {
    window[n] = static_cast<float>(0.25 * (1.0 - std::cos(2.0 * kPi * n / kFft)));
  }
  for (int k = 0; k < 8; ++k) {
    for (int n = 0; n < 25; ++n) {
      twiddle_cos[k * 25 + n] = static_cast<float>(std::cos(2.0 * kPi * k * n / 200.0));
      twiddle_sin[k * 25 + n] = static_cast<float>(-std::sin(2.0 * kPi * k * n / 200.0));
    }
  }
  for (int k = 0; k <= kFft / 4; ++k) {
    split_cos[k] = static_cast<float>(std::cos(2.0 * kPi * k / kFft));
    split_sin[k] = static_cast<float>(-std::sin(2.0 * kPi * k / kFft));
  }
  const double top_mel = hertz_to_mel(kSampleRate / 2.0);
  auto edge = [&](int i) { return mel_to_hertz(top_mel * i / (mels + 1)); };
  mel_offset[0] = 0;
  for (int m = 0; m < mels; ++m) {
    const double low = edge(m), centre = edge(m + 1), high = edge(m + 2);
    int used = 0;
    mel_first[m] = 0;
    for (int bin = 0; bin < kBins; ++bin) {
      const double hertz = bin * (kSampleRate / 2.0) / (kBins - 1);
      const double rising = (hertz - low) / (centre - low);
      const double falling = (high - hertz) / (high - centre);
      const double weight = 2.0 / (high - low) * std::min(rising, falling);
      if (weight <= 0.0) continue;
      if (used == 0) mel_first[m] = bin;
      mel_weight[mel_offset[m] + used++] = static_cast<float>(weight);
    }
    mel_offset[m + 1] = mel_offset[m] + used;
  }
}

LogMelWindow::LogMelWindow(int n_mels, std::size_t window_samples)
    : plan_(n_mels), window_samples_(window_samples) {
  constexpr std::size_t most = std::size_t{1} << 26;  // over an hour of audio in one window
  if (window_samples <= kEdge || window_samples > most) {
    throw std::invalid_argument("a log-mel window holds " + std::to_string(kEdge + 1) + " to " +
                                std::to_string(most) + " samples, not " +
                                std::to_string(window_samples));
  }
  const std::size_t frames = window_samples / kHop;
  stride_ = static_cast<int>((frames + kFrameBlock) / kFrameBlock * kFrameBlock);
  padded_.resize(window_samples + 2 * kEdge);
  log_power_.resize(static_cast<std::size_t>(stride_) * plan_.n_mels);
}

void LogMelWindow::push(const float* samples, std::size_t count) {
  if (count > window_samples_ - count_) {
    throw std::invalid_argument("the log-mel window has room for " +
                                std::to_string(window_samples_ - count_) +
                                " more samples, not for " + std::to_string(count));
  }
  // x - x is 0 for finite x and NaN otherwise.
  float nothing = 0.0f;
  for (std::size_t i = 0; i < count; ++i) nothing += samples[i] - samples[i];
  if (!(nothing == 0.0f)) throw std::invalid_argument("samples must be finite");

  float* const start = padded_.data() + kEdge;
  if (count) std::memcpy(start + count_, samples, count * sizeof(float));
  const bool had_edge = count_ > kEdge;
  count_ += count;
  if (count_ <= kEdge) return;
  if (!had_edge) {
    for (int i = 1; i <= kEdge; ++i) start[-i] = start[i];
  }
  while (static_cast<std::size_t>(done_ + kFrameBlock - 1) * kHop + kEdge <= count_) {
    run_block(done_, kFrameBlock);
    done_ += kFrameBlock;
  }
}

void LogMelWindow::check_closable() const {
  if (count_ <= kEdge) {
    throw std::invalid_argument("a log-mel window needs more than " + std::to_string(kEdge) +
                                " samples to mirror its edges, and has " + std::to_string(count_));
  }
}

void LogMelWindow::close(float* out) {
  check_closable();
  float* const end = padded_.data() + kEdge + count_;
  for (int i = 0; i < kEdge; ++i) end[i] = end[-2 - i];
  const int total = frames();
  for (; done_ < total; done_ += kFrameBlock) {
    run_block(done_, std::min(kFrameBlock, total - done_));
  }
  float top = -std::numeric_limits<float>::infinity();
  for (int m = 0; m < plan_.n_mels; ++m) {
    const float* row = log_power_.data() + static_cast<std::size_t>(m) * stride_;
    for (int t = 0; t < total; ++t) top = std::max(top, row[t]);
  }
  const float floor = top - 8.0f;
  for (int m = 0; m < plan_.n_mels; ++m) {
    const float* row = log_power_.data() + static_cast<std::size_t>(m) * stride_;
    for (int t = 0; t < total; ++t) *out++ = (std::max(row[t], floor) + 4.0f) / 4.0f;
  }
  reset();
}

void LogMelWindow::reset() {
  count_ = 0;
  done_ = 0;
}

void LogMelWindow::run_block(int first_frame, int frames) {
  kernels().log_mel_block(plan_, padded_.data() + static_cast<std::size_t>(first_frame) * kHop,
                          frames, log_power_.data() + first_frame, stride_);
}

}  // namespace asa
