// High-passes a recording and asks the detector about every frame of it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <deque>
#include <vector>

#include "asa/voice.h"
#include "high_pass.h"

namespace asa {

inline constexpr double kFrameSeconds = 0.032;

// 32 ms of a recording.
struct SpeechFrame {
  long index;                   // counted from the recording's first
  std::vector<double> samples;  // what the grader is to hear; fewer at the recording's end
  double power;                 // mean square behind the high-pass
  double floor;                 // the least power of a frame nearby
  double probability;           // that it holds speech; 0 for a frame that is not whole
};

// Silero's detector on one recording.
class SpeechDetector {
 public:
  explicit SpeechDetector(const VoiceWeights& weights) : weights_(weights) {}

  // samples [kVoiceContext + kVoiceFrame] at 16 kHz.
  float probability(const float* samples);
  void reset() { state_.fill(0.0f); }

 private:
  const VoiceWeights& weights_;
  std::array<float, 2 * kVoiceWidth> state_{};
};

// What comes out depends on the samples alone, not on how they were cut. Frames come 0.6 to 0.7 s
// after their last sample: those the level looks ahead, the filter's delay, the rest of a block.
class SpeechTrack {
 public:
  // Frames hold the recording as it is but for its offset, or what the high-pass leaves.
  SpeechTrack(const HighPass& high_pass, const VoiceWeights& weights, bool as_is);

  // Calls take(frame) for each frame that the samples complete.
  template <class Take>
  void push(const float* samples, std::size_t count, const Take& take) {
    if (count && !samples_) begin_at(samples[0]);
    samples_ += count;
    fill(samples, count, take);
  }

  // Calls take(frame) for the last frames; the very last may be shorter than the others.
  template <class Take>
  void finish(const Take& take) {
    if (!samples_) return;
    const auto last = static_cast<float>(source_[kFilterBlock + filled_ - 1]);
    const std::vector<float> end(kFilterDelay + kFilterBlock, last);
    fill(end.data(), end.size(), take);
    const Filtered rest = cut();
    while (!ahead_.empty()) take(next());
    if (SpeechFrame frame = last_frame(rest); !frame.samples.empty()) take(std::move(frame));
  }

  // Samples that must come before so many more frames do.
  std::size_t missing(std::size_t frames) const;

  // Frames that the detector was asked about: not those of digital silence.
  std::size_t asked() const { return asked_; }

 private:
  struct Filtered {
    std::array<double, kVoiceContext + kVoiceFrame> heard;  // with the context before it
    std::vector<double> samples;
    double power;
  };

  template <class Take>
  void fill(const float* samples, std::size_t count, const Take& take) {
    while (count) {
      const std::size_t n = std::min<std::size_t>(count, kFilterBlock - filled_);
      std::copy(samples, samples + n, source_.begin() + kFilterBlock + filled_);
      filled_ += static_cast<int>(n);
      samples += n;
      count -= n;
      if (filled_ < kFilterBlock) return;
      filter_block();
      while (ahead_.size() > kAheadFrames) take(next());
    }
  }

  static constexpr std::size_t kAheadFrames = 16;

  void begin_at(float sample);
  void filter_block();
  SpeechFrame next();
  Filtered cut();
  SpeechFrame last_frame(const Filtered& rest) const;

  const HighPass& high_pass_;
  SpeechDetector detector_;
  bool as_is_;
  std::vector<double> source_;  // two blocks; the first has been filtered
  int filled_ = 0, skip_ = kFilterDelay;
  std::size_t samples_ = 0;
  std::array<double, kVoiceContext> before_{};  // filtered, what goes before the next frame
  std::deque<Filtered> ahead_;
  std::deque<double> powers_;
  long frames_ = 0;
  double loudest_ = 0;
  std::size_t asked_ = 0;
};

}  // namespace asa
