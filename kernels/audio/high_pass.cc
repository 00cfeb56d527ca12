#include "high_pass.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "asa/isa.h"

namespace asa {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr double kRateHz = 16'000;
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
    const double n = i - kFilterDelay, x = kPi * 2 * cutoff_hz / kRateHz * n;
    const double inner = std::max(0.0, 1 - (n / kFilterDelay) * (n / kFilterDelay));
    low[i] = (n == 0 ? 1 : std::sin(x) / x) * bessel0(kKaiserBeta * std::sqrt(inner));
    total += low[i];
  }
  for (double& tap : low) tap = -tap / total;
  low[kFilterDelay] += 1;
  return low;
}

}  // namespace

HighPass::HighPass() {
  FourierRoots& roots = filter_->roots;
  for (int i = 0; i < kFourier; ++i) {
    const double angle = 2 * kPi * i / kFourier;
    roots.real[i] = std::cos(angle);
    roots.imag[i] = -std::sin(angle);
  }
  const std::vector<double> high = taps(kCutoffHz), without_offset = taps(kOffsetHz);
  // Real taps: what the inverse transform makes of the one is real, of i times the other imaginary.
  std::copy(high.begin(), high.end(), filter_->real.begin());
  std::copy(without_offset.begin(), without_offset.end(), filter_->imag.begin());
  std::vector<double> spare(2 * kFourier);
  kernels().fourier.transform(roots, filter_->real.data(), filter_->imag.data(), spare.data());
}

void HighPass::run(const double* source, double* high, double* without_offset) const {
  thread_local std::vector<double> x(4 * kFourier);  // so large that each call would map pages anew
  double *const real = x.data(), *const imag = real + kFourier, *const spare = imag + kFourier;
  std::copy(source, source + kFourier, real);
  std::fill(imag, imag + kFourier, 0.0);
  const FourierKernels& fourier = kernels().fourier;
  fourier.transform(filter_->roots, real, imag, spare);
  for (int i = 0; i < kFourier; ++i) {
    // The inverse transform is the transform of the conjugate, conjugated.
    const double r = real[i], m = imag[i], a = filter_->real[i], b = filter_->imag[i];
    real[i] = r * a - m * b;
    imag[i] = -r * b - m * a;
  }
  fourier.transform(filter_->roots, real, imag, spare);
  for (int i = 0; i < kFilterBlock; ++i) {
    high[i] = real[kFilterBlock + i] / kFourier;
    without_offset[i] = -imag[kFilterBlock + i] / kFourier;
  }
}

}  // namespace asa
