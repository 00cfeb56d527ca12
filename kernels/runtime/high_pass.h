// Linear-phase high-pass filters of a recording, block by block, in double.
#pragma once

#include <complex>
#include <vector>

namespace asa {

inline constexpr int kFilterBlock = 2048;  // samples: four of the detector's frames
inline constexpr int kFilterDelay = kFilterBlock / 2;

// Windowed sincs (Kaiser, beta 5.9) of kFilterBlock + 1 taps, by overlap-save: one cuts below 75 Hz
// and takes the mains with it, one below 20 Hz and takes the offset alone.
class HighPass {
 public:
  HighPass();

  // source [2 blocks]: the block before, then the new one. Writes the new block of both filters.
  void run(const double* source, double* high, double* without_offset) const;

 private:
  using Complex = std::complex<double>;
  void transform(std::vector<Complex>& x) const;

  std::vector<Complex> twiddle_;
  std::vector<int> reversed_;
  std::vector<Complex> filter_;  // the first filter's spectrum plus i times the second's
};

}  // namespace asa
