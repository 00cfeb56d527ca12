// Rotary positions (Su et al. 2021, equation 34), a head at a time.
#pragma once

namespace asa {

struct RotaryKernels {
  // to = factor * x [width], of which the pairs (x[i], x[i + half]), i below `half`, are turned by
  // the angles whose cosines and sines are given.
  void (*turn)(const float* x, int width, const float* cosines, const float* sines, int half,
               float factor, float* to);
};

}  // namespace asa
