#include "asa/viterbi.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace asa {

Path viterbi(const float* log_probabilities, int frames, int classes,
             const std::vector<std::int32_t>& emits, const std::vector<std::uint8_t>& optional,
             bool whole) {
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  const std::size_t count = emits.size();
  if (frames < 1 || count < 2 || optional.size() != count) {
    throw std::invalid_argument("a path needs frames and two states or more");
  }
  for (const std::int32_t emitted : emits) {
    if (emitted < 0 || emitted >= classes) throw std::invalid_argument("there is no such class");
  }
  std::vector<double> best(count, kNever), next(count);
  std::vector<std::uint8_t> steps(static_cast<std::size_t>(frames) * count);
  for (std::size_t s = 0; s < 2; ++s) best[s] = log_probabilities[emits[s]];
  for (int frame = 1; frame < frames; ++frame) {
    const float* row = log_probabilities + static_cast<std::size_t>(frame) * classes;
    std::uint8_t* step = steps.data() + static_cast<std::size_t>(frame) * count;
    for (std::size_t s = 0; s < count; ++s) {
      double from = best[s];
      if (s > 0 && best[s - 1] > from) {
        from = best[s - 1];
        step[s] = 1;
      }
      if (s > 1 && optional[s - 1] && best[s - 2] > from) {
        from = best[s - 2];
        step[s] = 2;
      }
      next[s] = from + row[emits[s]];
    }
    best.swap(next);
  }
  std::size_t state = count - (best[count - 1] >= best[count - 2] ? 1 : 2);
  if (!whole) state = std::max_element(best.begin(), best.end()) - best.begin();
  Path path;
  path.score = best[state];
  if (path.score == kNever) return path;
  path.states.resize(frames);
  for (int frame = frames - 1; frame >= 0; --frame) {
    path.states[frame] = static_cast<std::int32_t>(state);
    state -= steps[static_cast<std::size_t>(frame) * count + state];
  }
  return path;
}

}  // namespace asa
