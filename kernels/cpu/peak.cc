#include "asa/peak.h"

#include "tile.h"

namespace asa::ASA_ISA {
namespace {

// Hides from the compiler where a vector comes from.
template <class Vector>
ASA_INLINE void hide(Vector& x) {
#if defined(__aarch64__) || defined(ASA_ARM)
  asm volatile("" : "+w"(x));
#elif defined(__x86_64__)
  asm volatile("" : "+v"(x));
#else
  asm volatile("" : "+m"(x));
#endif
}

// The accumulators of a matrix product's inner loop, without its loads.
template <class Op>
double multiply_registers(int rounds) {
  typename Op::Acc acc[kRows][kVectors] = {};
  for (auto& row : acc) {
    for (auto& one : row) hide(one);  // or all of them become one
  }
  const int32_t a = 0x01010101;
  vi b = splat(int32_t(0x01010101));
  for (int i = 0; i < rounds; ++i) {
    hide(b);  // or all rounds become one
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Op::step(acc[r][v], a, b);
    }
  }
  volatile typename Op::Acc kept;
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) kept = acc[r][v];
  }
  (void)kept;
  return 2.0 * inputs_per_word(Op::precision) * kRows * kPanel * rounds;
}

double multiply(Precision precision, int rounds) {
  switch (precision) {
    case Precision::fp32:
      return multiply_registers<Fp32>(rounds);
    case Precision::bf16:
      return multiply_registers<Bf16>(rounds);
    case Precision::int8:
      return multiply_registers<PairedInt8>(rounds);
    case Precision::int16:
      return multiply_registers<Int16>(rounds);
  }
  return 0;
}

}  // namespace

PeakKernels peak_kernels() { return {.multiply = multiply}; }

}  // namespace asa::ASA_ISA
