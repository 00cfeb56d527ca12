// The state of one window, and the constant tables; nothing here depends on the instruction set.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
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

// Infinity and NaN have every exponent bit set; integers, unlike float sums, go many at a time.
void check_finite(const float* samples, std::size_t count) {
  constexpr std::uint32_t exponent = 0x7f800000;
  std::uint32_t bad = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, samples + i, sizeof(bits));
    bad |= (bits & exponent) == exponent;
  }
  if (bad) throw std::invalid_argument("samples must be finite");
}

void check_enough(std::size_t count) {
  if (count <= kEdge) {
    throw std::invalid_argument("a log-mel window needs more than " + std::to_string(kEdge) +
                                " samples to mirror its edges, and has " + std::to_string(count));
  }
}

// The largest of `count` floats, none of them NaN: in lanes, so that it is no chain of comparisons.
float largest(const float* x, std::size_t count, float top) {
  constexpr std::size_t lanes = 16;
  float tops[lanes];
  std::fill(tops, tops + lanes, top);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::size_t j = 0; j < lanes; ++j) tops[j] = x[i + j] > tops[j] ? x[i + j] : tops[j];
  }
  for (; i < count; ++i) tops[0] = std::max(tops[0], x[i]);
  return *std::max_element(tops, tops + lanes);
}

// Floors a row 80 dB below the window's top and scales it as Whisper wants it.
void finish_row(const float* row, int count, float top, float* out) {
  const float floor = top - 8.0f;
  for (int t = 0; t < count; ++t) out[t] = (std::max(row[t], floor) + 4.0f) / 4.0f;
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
  check_finite(samples, count);

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

void LogMelWindow::check_closable() const { check_enough(count_); }

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
    top = largest(row, total, top);
  }
  for (int m = 0; m < plan_.n_mels; ++m) {
    const float* row = log_power_.data() + static_cast<std::size_t>(m) * stride_;
    finish_row(row, total, top, out + static_cast<std::size_t>(m) * total);
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

void check_log_mel(int n_mels, const float* samples, std::size_t count) {
  if (n_mels < 1 || n_mels > kMaxMels) static_cast<void>(LogMelPlan(n_mels));  // throws
  check_enough(count);
  check_finite(samples, count);
}

void log_mel(int n_mels, const float* samples, std::size_t count, float* out) {
  const LogMelPlan plan(n_mels);
  const int total = static_cast<int>(count / kHop);
  const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(count);
  constexpr int span = (kFrameBlock - 1) * kHop + kFft;
  for (int first = 0; first < total; first += kFrameBlock) {
    const int frames = std::min(kFrameBlock, total - first);
    const std::ptrdiff_t start = static_cast<std::ptrdiff_t>(first) * kHop - kEdge;
    if (frames == kFrameBlock && start >= 0 && start + span <= size) {
      kernels().log_mel_block(plan, samples + start, frames, out + first, total);
      continue;
    }
    // Blocks at the edges: mirrored samples, and rows that end before the block does.
    float mirrored[span];
    for (int i = 0; i < (frames - 1) * kHop + kFft; ++i) {
      const std::ptrdiff_t at = std::abs(start + i);
      mirrored[i] = samples[at < size ? at : 2 * (size - 1) - at];
    }
    float block[kMaxMels * kFrameBlock];
    kernels().log_mel_block(plan, mirrored, frames, block, kFrameBlock);
    for (int m = 0; m < n_mels; ++m) {
      std::memcpy(out + static_cast<std::size_t>(m) * total + first, block + m * kFrameBlock,
                  sizeof(float) * frames);
    }
  }
  const std::size_t all = static_cast<std::size_t>(total) * n_mels;
  const float top = largest(out, all, -std::numeric_limits<float>::infinity());
  for (int m = 0; m < n_mels; ++m) {
    float* row = out + static_cast<std::size_t>(m) * total;
    finish_row(row, total, top, row);
  }
}

}  // namespace asa
