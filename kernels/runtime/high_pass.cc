#include "high_pass.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "asa/log_mel.h"

namespace asa {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr int kSize = 2 * kFilterBlock;
constexpr int kTaps = kFilterBlock + 1;
constexpr double kKaiserBeta = 5.9, kCutoffHz = 75.0, kOffsetHz = 20.0;

// The modified Bessel function of the first kind and order zero, by its power series.
double bessel0(double x) {
  double sum = 1, term = 1;
  for (int k = 1; term > 1e-18 * sum; ++k) {
    term *= x * x / (4.0 * k * k);
    sum += term;
  }
  return sum;
}

std::vector<double> taps(double cutoff_hz) {
  std::vector<double> low(kTaps);
  double total = 0;
  for (int i = 0; i < kTaps; ++i) {
    const double n = i - kFilterDelay, x = kPi * 2 * cutoff_hz / kSampleRate * n;
    const double inner = std::max(0.0, 1 - (n / kFilterDelay) * (n / kFilterDelay));
    low[i] = (n == 0 ? 1 : std::sin(x) / x) * bessel0(kKaiserBeta * std::sqrt(inner));
    total += low[i];
  }
  for (double& tap : low) tap = -tap / total;
  low[kFilterDelay] += 1;
  return low;
}

}  // namespace

HighPass::HighPass() : twiddle_(kSize / 2), reversed_(kSize), filter_(kSize) {
  for (int i = 0; i < kSize / 2; ++i) {
    const double angle = -2 * kPi * i / kSize;
    twiddle_[i] = {std::cos(angle), std::sin(angle)};
  }
  for (int i = 1; i < kSize; ++i) reversed_[i] = reversed_[i / 2] / 2 + (i % 2) * kSize / 2;
  const std::vector<double> high = taps(kCutoffHz), without_offset = taps(kOffsetHz);
  // Real taps: what the inverse transform makes of the one is real, of i times the other imaginary.
  for (int i = 0; i < kTaps; ++i) filter_[i] = {high[i], without_offset[i]};
  transform(filter_);
}

void HighPass::run(const double* source, double* high, double* without_offset) const {
  std::vector<Complex> x(source, source + kSize);
  transform(x);
  for (int i = 0; i < kSize; ++i) {
    // The inverse transform is the transform of the conjugate, conjugated.
    const Complex &a = x[i], &b = filter_[i];
    x[i] = {a.real() * b.real() - a.imag() * b.imag(), -a.real() * b.imag() - a.imag() * b.real()};
  }
  transform(x);
  for (int i = 0; i < kFilterBlock; ++i) {
    high[i] = x[kFilterBlock + i].real() / kSize;
    without_offset[i] = -x[kFilterBlock + i].imag() / kSize;
  }
}

// Radix 2, decimation in time.
void HighPass::transform(std::vector<Complex>& x) const {
  for (int i = 0; i < kSize; ++i) {
    if (i < reversed_[i]) std::swap(x[i], x[reversed_[i]]);
  }
  for (int half = 1; half < kSize; half *= 2) {
    for (int start = 0; start < kSize; start += 2 * half) {
      for (int i = 0; i < half; ++i) {
        const Complex w = twiddle_[i * (kSize / 2 / half)];
        Complex &even = x[start + i], &odd = x[start + half + i];
        const Complex turned = {w.real() * odd.real() - w.imag() * odd.imag(),
                                w.real() * odd.imag() + w.imag() * odd.real()};
        odd = even - turned;
        even += turned;
      }
    }
  }
}

}  // namespace asa
