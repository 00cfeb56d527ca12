// Rows of numbers, and what is asked of them.
#pragma once

#include <cstddef>
#include <vector>

namespace asa {

struct Table {
  int rows = 0, cols = 0;
  std::vector<float> values;

  Table() = default;
  Table(int r, int c) : rows(r), cols(c), values(static_cast<std::size_t>(r) * c) {}

  float* operator[](int row) { return values.data() + static_cast<std::size_t>(row) * cols; }
  const float* operator[](int row) const {
    return values.data() + static_cast<std::size_t>(row) * cols;
  }
};

// As NumPy has it: linear between the two that are nearest. `values` are put in order.
double percentile(std::vector<float>& values, double percent);

// The largest of `count` numbers, or of those but two.
float largest(const float* values, int count, int but = -1, int but_too = -1);

// Throws FileError where a number is NaN or infinite: weights are to blame.
void check_numbers(const std::vector<float>& values);

}  // namespace asa
