#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "asa/buffer.h"
#include "asa/isa.h"

namespace asa {
namespace {

// What `work` returns, a second, at its best: others may use the machine too.
template <class Work>
double best_rate(double seconds, Work work) {
  using Clock = std::chrono::steady_clock;
  if (!(seconds > 0 && seconds <= 10)) throw std::invalid_argument("seconds must be in (0, 10]");
  const auto start = Clock::now();
  double best = 0;
  for (auto begun = start; begun - start < std::chrono::duration<double>(seconds);) {
    const double done = work();
    const auto ended = Clock::now();
    best = std::max(best, done / std::chrono::duration<double>(ended - begun).count());
    begun = ended;
  }
  return best;
}

}  // namespace

double matrix_rate(Precision precision, double seconds) {
  constexpr int rounds = 20000;  // a millisecond or so: long beside a look at the clock
  return best_rate(seconds, [&] { return kernels().peak.multiply(precision, rounds); });
}

double copy_rate(std::size_t bytes, double seconds) {
  constexpr std::size_t most = std::size_t{1} << 30, long_enough = std::size_t{4} << 20;
  if (bytes < 64 || bytes > most) throw std::invalid_argument("bytes must be 64 to 2^30");
  Buffer from(bytes / sizeof(float)), to(bytes / sizeof(float));
  const std::size_t size = bytes / sizeof(float) * sizeof(float);
  const std::size_t times = size < long_enough ? long_enough / size : 1;
  std::memset(from.floats(), 1, size);
  std::memset(to.floats(), 1, size);
  return best_rate(seconds, [&] {
    for (std::size_t i = 0; i < times; ++i) {
      std::memcpy(to.floats(), from.floats(), size);
      asm volatile("" : : "r"(to.floats()) : "memory");
    }
    return 2.0 * static_cast<double>(size) * static_cast<double>(times);
  });
}

}  // namespace asa
