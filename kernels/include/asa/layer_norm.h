// LayerNorm (epsilon 1e-5) over the residual stream, and the learned mix of layers.
#pragma once

#include "asa/linear.h"

namespace asa {

struct LayerNormKernels {
  // Packs the normalised rows as a GEMM's input. `scratch` holds round_up(width, kGroup) floats.
  void (*put)(const float* x, int stride, int rows, const float* gamma, const float* beta,
              const Rows& to, float* scratch);

  // out[row] += weight * normalised row; rows of `out` are `out_stride` floats apart.
  void (*mix)(const float* x, int stride, int rows, int width, const float* gamma,
              const float* beta, float weight, float* out, int out_stride);

  // out[row] += weight * row.
  void (*add_scaled)(const float* x, int stride, int rows, int width, float weight, float* out,
                     int out_stride);
};

}  // namespace asa
