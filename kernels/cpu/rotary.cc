#include "asa/rotary.h"

#include "asa/simd.h"

namespace asa::ASA_ISA {
namespace {

void turn(const float* x, int width, const float* cosines, const float* sines, int half,
          float factor, float* to) {
  int i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const vf a = load(x + i) * factor, b = load(x + half + i) * factor;
    const vf c = load(cosines + i), s = load(sines + i);
    store(to + i, a * c - b * s);
    store(to + half + i, b * c + a * s);
  }
  for (; i < half; ++i) {
    const float a = x[i] * factor, b = x[half + i] * factor;
    to[i] = a * cosines[i] - b * sines[i];
    to[half + i] = b * cosines[i] + a * sines[i];
  }
  for (i = 2 * half; i < width; ++i) to[i] = x[i] * factor;
}

}  // namespace

RotaryKernels rotary_kernels() { return {.turn = turn}; }

}  // namespace asa::ASA_ISA
