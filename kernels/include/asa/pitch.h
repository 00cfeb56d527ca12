// Fundamental frequency by probabilistic YIN: candidates as samples arrive, one path at the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace asa {

inline constexpr int kPitchHop = 160;          // samples (16 kHz) between frames
inline constexpr int kPitchShortest = 7;       // lags: C7, 2093 Hz ...
inline constexpr int kPitchLongest = 245;      // ... down to C2, 65.4 Hz
inline constexpr int kPitchWindowBlocks = 12;  // hops a difference is summed over, around the frame

// The pitch track of one recording, whatever the pieces it arrives in.
// Frame t is centred on sample 160 t; there are samples / 160 + 1 of them.
class PitchTracker {
 public:
  PitchTracker();

  std::size_t samples() const { return count_; }
  std::size_t frames() const { return count_ / kPitchHop + 1; }

  // Throws std::invalid_argument if a sample is not finite; nothing is taken then.
  void push(const float* samples, std::size_t count);

  // Writes frames() values each: f0 in Hz, 0 where unvoiced, and the probability of voicing.
  // Starts the next recording.
  void finish(float* f0_hz, float* voiced);

  void reset();

 private:
  struct Candidate {
    float place;  // log2 of the frequency in Hz
    float score;  // log-probability of the best path that ends here
    std::uint8_t from;
  };

  void take(const float* samples, std::size_t count);
  void run_blocks();
  void add_frame();
  void step(const float* places, const float* probabilities, int found);

  std::vector<float> pending_;      // samples from the first one that a block still needs
  std::vector<float> differences_;  // ring of kPitchWindowBlocks blocks' squared differences
  std::size_t count_ = 0;
  std::size_t blocks_ = 0;
  std::size_t done_ = 0;  // frames with candidates
  std::vector<Candidate> candidates_;
  std::vector<std::size_t> first_;  // of each frame in candidates_; its last one is "unvoiced"
  std::vector<float> voiced_;
};

}  // namespace asa
