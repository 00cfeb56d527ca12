#include "asa/pool.h"

#include <math.h>

#include "rows.h"

namespace asa::ASA_ISA {
namespace {

ASA_INLINE float dot(const float* a, const float* b, int n) {
  vf part = splat(0.0f);
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) part += load(a + i) * load(b + i);
  float total = sum(part);
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

void pool(const float* frames, int count, int width, const float* attention_weight,
          const float* attention_bias, int heads, float* stats) {
  float* total = stats + 1;
  float* squares = total + width;
  float* weights = squares + width;
  float* weighted = weights + heads;
  const int all = 1 + 2 * width + heads * (1 + width);
  for (int i = 0; i < all; ++i) stats[i] = 0.0f;
  stats[0] = float(count);
  for (int t = 0; t < count; ++t) {
    const float* x = frames + size_t(t) * width;
    for (int i = 0; i < width; ++i) total[i] += x[i];
    for (int i = 0; i < width; ++i) squares[i] += x[i] * x[i];
    for (int h = 0; h < heads; ++h) {
      const float logit = dot(x, attention_weight + size_t(h) * width, width) + attention_bias[h];
      const float w = expf(kAttentionBound * tanhf(logit / kAttentionBound));
      weights[h] += w;
      float* to = weighted + size_t(h) * width;
      for (int i = 0; i < width; ++i) to[i] += w * x[i];
    }
  }
}

void moments(const float* rows, int stride, int count, int width, float* sums, float* squares) {
  for (int i = 0; i < width; ++i) sums[i] = squares[i] = 0.0f;
  for (int t = 0; t < count; ++t, rows += stride) {
    for (int i = 0; i < width; ++i) {
      sums[i] += rows[i];
      squares[i] += rows[i] * rows[i];
    }
  }
}

}  // namespace

PoolKernels pool_kernels() { return {.pool = pool, .moments = moments}; }

}  // namespace asa::ASA_ISA
