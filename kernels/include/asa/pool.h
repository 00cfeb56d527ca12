// Sums over a window's frames that the head needs; they add up over windows.
#pragma once

namespace asa {

inline constexpr float kAttentionBound = 4.0f;

struct PoolKernels {
  // stats = count, sum x [width], sum x^2 [width], sum w_h [heads], sum w_h x [heads][width], with
  // w_h = exp(b tanh((a_h . x + c_h) / b)), b = 4, accumulated in float32, frame by frame.
  void (*pool)(const float* frames, int count, int width, const float* attention_weight,
               const float* attention_bias, int heads, float* stats);
  // sums = sum x, squares = sum x^2, each [width], over rows that are `stride` floats apart.
  void (*moments)(const float* rows, int stride, int count, int width, float* sums, float* squares);
};

}  // namespace asa
