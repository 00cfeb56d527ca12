// What the kernels' tests share: noise, errors, and a count of failures.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "asa/isa.h"
#include "noise.h"

namespace asa::tests {

using asa::Precision;
using Matrix = std::vector<double>;

inline int failures = 0;

inline void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED %s\n", what.c_str());
}

inline double relative_error(const std::vector<float>& found, const Matrix& expected) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference / size);
}

// Rounding of each factor: 2^-24, 2^-9 and, for 255 or 8190 steps over the range of a row, about
// 2^-8 and 2^-12.
inline double tolerance(Precision precision) {
  if (precision == Precision::int16) return 1e-3;
  return precision == Precision::fp32 ? 1e-5 : precision == Precision::bf16 ? 5e-3 : 1.5e-2;
}

inline const char* name_of(Precision precision) {
  if (precision == Precision::int16) return "int16";
  return precision == Precision::fp32 ? "fp32" : precision == Precision::bf16 ? "bf16" : "int8";
}

inline double gelu(double x) { return x / 2 * (1 + std::erf(x / std::sqrt(2.0))); }

// Calls test(kernels) for every instruction set this CPU has.
template <class Test>
void on_every_isa(Test test) {
  const std::string list = available_isas();
  for (std::size_t begin = 0; begin < list.size();) {
    const std::size_t end = std::min(list.find(", ", begin), list.size());
    const Kernels& k = kernels_for(list.substr(begin, end - begin).c_str());
    begin = end + 2;
    test(k);
    std::printf("%s: done\n", k.isa);
  }
}

// What main() returns.
inline int result() {
  if (failures) std::printf("%d failures\n", failures);
  return failures != 0;
}

}  // namespace asa::tests
