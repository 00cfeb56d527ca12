// The likeliest path from left to right through states that each emit one of the classes.
#pragma once

#include <cstdint>
#include <vector>

namespace asa {

struct Path {
  std::vector<std::int32_t> states;  // [frames]; empty where no path reaches an end
  double score = 0.0;                // its log-probability
};

// log_probabilities [frames][classes]; emits [states] the class of each state; a path begins in one
// of the first two states, stays or goes on by one, by two where the state between may be passed
// over (optional [states]), and ends in one of the last two, or anywhere unless `whole`. Of equals
// it stays, and ends earlier unless `whole`, later if `whole`. Nothing may be NaN. Throws
// std::invalid_argument for no frames, fewer than two states, or a class that is none.
Path viterbi(const float* log_probabilities, int frames, int classes,
             const std::vector<std::int32_t>& emits, const std::vector<std::uint8_t>& optional,
             bool whole);

}  // namespace asa
