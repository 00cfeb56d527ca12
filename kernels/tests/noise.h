// Reproducible numbers for the tests of every device.
#pragma once

#include <cstddef>
#include <random>
#include <vector>

namespace asa::tests {

inline std::vector<float> noise(std::size_t count, float scale, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

}  // namespace asa::tests
