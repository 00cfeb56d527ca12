// One pass over the residual stream between two products: LayerNorm (epsilon 1e-5) for the next
// one, the learned mix of layers, and the sums that the kernel regressor wants.
#pragma once

#include "asa/cuda/ragged.h"

namespace asa::cuda {

struct Norm {
  const float* x;  // [rows][stride]; what lies past `width` is zero
  int stride;      // multiple of 64
  int width;
  const float *gamma, *beta;  // [stride], zero past `width`
  void* out;                  // [rows][stride] in the format; null: not wanted

  // h is x, or the normalised x where `closing`.
  bool closing;
  float* mixed;  // [rows][stride], += mix_weight h, or = where `begin`; null: not wanted
  float mix_weight;
  bool begin;

  // stats[window][at + i] = sum of h_i over its rows, [at + squares + i] of h_i^2, float32, strip
  // by strip; null: not wanted.
  float* stats;
  int stats_stride, at, squares;
  float* partial;     // [strip_room][2][stride]
  unsigned* arrived;  // [windows], zero before and after
};

void layer_norm(Stream& stream, Format format, const Norm& norm, const Ragged& ragged);

}  // namespace asa::cuda
