// The discrete Fourier transform of a fixed size, in double.
#pragma once

namespace asa {

inline constexpr int kFourierSide = 64;
inline constexpr int kFourier = kFourierSide * kFourierSide;  // points

// cos and -sin of 2 pi k / kFourier.
struct FourierRoots {
  double real[kFourier], imag[kFourier];
};

struct FourierKernels {
  // In place, [kFourier] each; `spare` [2 kFourier] is overwritten.
  void (*transform)(const FourierRoots& roots, double* real, double* imag, double* spare);
};

}  // namespace asa
