// Linear-phase high-pass filters of a recording, block by block, in double.
#pragma once

#include <array>
#include <memory>

#include "asa/fourier.h"

namespace asa {

inline constexpr int kFilterBlock = 2048;  // samples: four of the detector's frames
static_assert(kFourier == 2 * kFilterBlock);
inline constexpr int kFilterDelay = kFilterBlock / 2;

// Windowed sincs (Kaiser, beta 5.9) of kFilterBlock + 1 taps, by overlap-save: one cuts below 75 Hz
// and takes the mains with it, one below 20 Hz and takes the offset alone.
class HighPass {
 public:
  HighPass();

  // source [2 blocks]: the block before, then the new one. Writes the new block of both filters.
  void run(const double* source, double* high, double* without_offset) const;

 private:
  // The spectrum of the first filter plus i times the second.
  struct Spectra {
    FourierRoots roots;
    std::array<double, kFourier> real, imag;
  };
  std::unique_ptr<Spectra> filter_ = std::make_unique<Spectra>();
};

}  // namespace asa
