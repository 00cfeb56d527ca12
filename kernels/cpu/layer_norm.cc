#include "asa/layer_norm.h"

#include "rows.h"

namespace asa::ASA_ISA {
namespace {

constexpr float kEpsilon = 1e-5f;

// Sums in kLanes running parts, the rest one by one: the same order whatever surrounds the row.
ASA_INLINE void moments(const float* x, int width, float& mean, float& inverse_sd) {
  vf part = splat(0.0f);
  int i = 0;
  for (; i + kLanes <= width; i += kLanes) part += load(x + i);
  float total = sum(part);
  for (; i < width; ++i) total += x[i];
  mean = total / float(width);

  part = splat(0.0f);
  for (i = 0; i + kLanes <= width; i += kLanes) {
    const vf d = load(x + i) - mean;
    part += d * d;
  }
  total = sum(part);
  for (; i < width; ++i) total += (x[i] - mean) * (x[i] - mean);
  inverse_sd = 1.0f / __builtin_sqrtf(total / float(width) + kEpsilon);
}

void put(const float* x, int stride, int rows, const float* gamma, const float* beta,
         const Rows& to, float* scratch) {
  for (int i = to.in; i < round_up(to.in, kGroup); ++i) scratch[i] = 0.0f;
  for (int row = 0; row < rows; ++row, x += stride) {
    float mean, inverse_sd;
    moments(x, to.in, mean, inverse_sd);
    for (int i = 0; i < to.in; ++i) scratch[i] = (x[i] - mean) * inverse_sd * gamma[i] + beta[i];
    put_row(to, scratch, row);
  }
}

void mix(const float* x, int stride, int rows, int width, const float* gamma, const float* beta,
         float weight, float* out, int out_stride) {
  for (int row = 0; row < rows; ++row, x += stride, out += out_stride) {
    float mean, inverse_sd;
    moments(x, width, mean, inverse_sd);
    for (int i = 0; i < width; ++i) {
      out[i] += weight * ((x[i] - mean) * inverse_sd * gamma[i] + beta[i]);
    }
  }
}

void add_scaled(const float* x, int stride, int rows, int width, float weight, float* out,
                int out_stride) {
  for (int row = 0; row < rows; ++row, x += stride, out += out_stride) {
    for (int i = 0; i < width; ++i) out[i] += weight * x[i];
  }
}

}  // namespace

LayerNormKernels layer_norm_kernels() { return {.put = put, .mix = mix, .add_scaled = add_scaled}; }

}  // namespace asa::ASA_ISA
