// Whether a recording can be judged at all: silence, no speech, too short, too noisy, clipped.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace asa {

// Histogram of loud absolute values; clipping shows in it.
class InputLevels {
 public:
  void push(const float* samples, std::size_t count);

  double peak() const { return peak_; }

  // Share of samples on the rail, or on a flat top below it: a recording clipped before its gain
  // was lowered has its flat tops in the highest levels that occur, which are the rarest in others.
  double clipped_share() const;

 private:
  static constexpr int kBins = 256;
  static constexpr int kFirst = 32;  // flat tops below -18 dBFS do not happen

  std::array<std::int64_t, kBins + 1> counts_{};
  std::size_t samples_ = 0;
  float peak_ = 0;
};

struct Validity {
  bool scorable = true;
  std::vector<std::string> reasons;
  double peak_dbfs = 0, rms_dbfs = 0, clipped_share = 0, speech_s = 0;
  std::optional<double> snr_db;  // none where no speech was found
};

// Judges a recording while it comes in, in bounded memory.
class ValidityMonitor {
 public:
  ValidityMonitor();

  void push(const float* samples, std::size_t count);

  // Takes what the front says of the next frame: how many frames it makes speech.
  void hear(int speech_frames);

  // Whether somebody speaks for sure; what is heard after that changes nothing.
  bool is_certain() const { return is_certain_; }

  // The verdict; call it once. speech_s: seconds of speech, where they were counted; else they are
  // told by level.
  Validity finish(const InputLevels& levels, std::optional<double> speech_s);

 private:
  void take_segment();
  std::int64_t frames_from(double least_dbfs) const;

  bool is_certain_ = false;
  std::vector<float> segment_;  // work is done in whole ones, counted from the first sample
  std::size_t samples_ = 0;
  double power_sum_ = 0;
  std::vector<std::int64_t> frames_at_;  // by level
  std::vector<double> power_at_;
  std::deque<int> recent_;
  long speech_frames_ = 0;
};

}  // namespace asa
