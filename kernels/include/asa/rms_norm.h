// RMSNorm over the residual stream of a language model (Zhang and Sennrich 2019, equation 4).
#pragma once

#include "asa/linear.h"

namespace asa {

struct RmsNormKernels {
  // Packs x / sqrt(mean x^2 + epsilon) gamma, row by row, as a GEMM's input. `scratch` holds
  // round_up(width, kGroup) floats.
  void (*put)(const float* x, int stride, int rows, const float* gamma, float epsilon,
              const Rows& to, float* scratch);

  // The same into rows of `width` floats, one behind the other.
  void (*store)(const float* x, int stride, int rows, int width, const float* gamma, float epsilon,
                float* out);
};

}  // namespace asa
