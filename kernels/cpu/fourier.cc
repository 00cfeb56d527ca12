// Point 64 i + j is row i, column j of a square: transform its columns, turn every point by its
// root, transpose, transform the columns again. A column's transform works on whole rows at a time.
#include "asa/fourier.h"

#include "tile.h"

namespace asa::ASA_ISA {
namespace {

constexpr int kSide = kFourierSide;

// One radix-4 pass of Stockham's algorithm over columns: of `from`, groups of points that lie
// kSide / 4 rows apart become neighbours in `to`. `size` is that of the transforms left to do.
ASA_INLINE void pass(const FourierRoots& roots, int size, const double* __restrict from_real,
                     const double* __restrict from_imag, double* __restrict to_real,
                     double* __restrict to_imag) {
  const int stride = kSide / size, quarter = size / 4;
  constexpr int kApart = kSide / 4 * kSide;
  for (int p = 0; p < quarter; ++p) {
    const int turn = p * (kFourier / size);
    const double real1 = roots.real[turn], imag1 = roots.imag[turn];
    const double real2 = roots.real[2 * turn], imag2 = roots.imag[2 * turn];
    const double real3 = roots.real[3 * turn], imag3 = roots.imag[3 * turn];
    for (int q = 0; q < stride; ++q) {
      const double* const in_real = from_real + (p * stride + q) * kSide;
      const double* const in_imag = from_imag + (p * stride + q) * kSide;
      double* const real = to_real + (4 * p * stride + q) * kSide;
      double* const imag = to_imag + (4 * p * stride + q) * kSide;
      const int next = stride * kSide;
#pragma GCC ivdep
      for (int i = 0; i < kSide; ++i) {
        const double ar = in_real[i], ai = in_imag[i];
        const double br = in_real[i + kApart], bi = in_imag[i + kApart];
        const double cr = in_real[i + 2 * kApart], ci = in_imag[i + 2 * kApart];
        const double dr = in_real[i + 3 * kApart], di = in_imag[i + 3 * kApart];
        const double even_r = ar + cr, even_i = ai + ci, less_r = ar - cr, less_i = ai - ci;
        const double odd_r = br + dr, odd_i = bi + di, turned_r = bi - di, turned_i = dr - br;
        real[i] = even_r + odd_r;
        imag[i] = even_i + odd_i;
        const double r1 = less_r + turned_r, i1 = less_i + turned_i;
        const double r2 = even_r - odd_r, i2 = even_i - odd_i;
        const double r3 = less_r - turned_r, i3 = less_i - turned_i;
        real[i + next] = r1 * real1 - i1 * imag1;
        imag[i + next] = r1 * imag1 + i1 * real1;
        real[i + 2 * next] = r2 * real2 - i2 * imag2;
        imag[i + 2 * next] = r2 * imag2 + i2 * real2;
        real[i + 3 * next] = r3 * real3 - i3 * imag3;
        imag[i + 3 * next] = r3 * imag3 + i3 * real3;
      }
    }
  }
}

ASA_INLINE void columns(const FourierRoots& roots, double* real, double* imag, double* spare) {
  double *const other_real = spare, *const other_imag = spare + kFourier;
  pass(roots, kSide, real, imag, other_real, other_imag);
  pass(roots, kSide / 4, other_real, other_imag, real, imag);
  pass(roots, kSide / 16, real, imag, other_real, other_imag);
}

void transform(const FourierRoots& roots, double* real, double* imag, double* spare) {
  columns(roots, real, imag, spare);
  for (int i = 0; i < kSide; ++i) {
    for (int j = 0; j < kSide; ++j) {
      const double r = spare[i * kSide + j], m = spare[kFourier + i * kSide + j];
      real[j * kSide + i] = r * roots.real[i * j] - m * roots.imag[i * j];
      imag[j * kSide + i] = r * roots.imag[i * j] + m * roots.real[i * j];
    }
  }
  columns(roots, real, imag, spare);
  for (int i = 0; i < kFourier; ++i) {
    real[i] = spare[i];
    imag[i] = spare[kFourier + i];
  }
}

}  // namespace

FourierKernels fourier_kernels() { return {.transform = transform}; }

}  // namespace asa::ASA_ISA
