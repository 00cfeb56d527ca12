#include "asa/rms_norm.h"

#include "rows.h"

namespace asa::ASA_ISA {
namespace {

// Sums in kLanes running parts, the rest one by one: the same order whatever surrounds the row.
ASA_INLINE float inverse_size(const float* x, int width, float epsilon) {
  vf part = splat(0.0f);
  int i = 0;
  for (; i + kLanes <= width; i += kLanes) part += load(x + i) * load(x + i);
  float total = sum(part);
  for (; i < width; ++i) total += x[i] * x[i];
  return 1.0f / __builtin_sqrtf(total / float(width) + epsilon);
}

ASA_INLINE void normalise(const float* x, int width, const float* gamma, float epsilon, float* to) {
  const float inverse = inverse_size(x, width, epsilon);
  for (int i = 0; i < width; ++i) to[i] = x[i] * inverse * gamma[i];
}

void put(const float* x, int stride, int rows, const float* gamma, float epsilon, const Rows& to,
         float* scratch) {
  for (int i = to.in; i < round_up(to.in, kGroup); ++i) scratch[i] = 0.0f;
  for (int row = 0; row < rows; ++row, x += stride) {
    normalise(x, to.in, gamma, epsilon, scratch);
    put_row(to, scratch, row);
  }
}

void store_rows(const float* x, int stride, int rows, int width, const float* gamma, float epsilon,
                float* out) {
  for (int row = 0; row < rows; ++row, x += stride, out += width) {
    normalise(x, width, gamma, epsilon, out);
  }
}

}  // namespace

RmsNormKernels rms_norm_kernels() { return {.put = put, .store = store_rows}; }

}  // namespace asa::ASA_ISA
