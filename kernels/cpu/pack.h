// Weights into panels.
#pragma once

#include "asa/linear.h"
#include "rows.h"

namespace asa::ASA_ISA {

inline constexpr float kLowest = 1e-30f;

inline uint16_t bf16_of(float x) {
  uint32_t b;
  __builtin_memcpy(&b, &x, sizeof(b));
  return uint16_t((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}

// Moves two vectors of steps towards zero until no two beside each other add up to more than 128,
// as `Linear::paired` wants it.
ASA_INLINE void limit_pairs(vf& a, vf& b) {
  const vf sum = a + b, over = max(size_of(sum) - 128.0f, splat(0.0f));
  const vf half = round_signed(over * 0.5f - 0.25f);
  a -= sum > 0.0f ? over - half : half - over;
  b -= sum > 0.0f ? half : -half;
}

// kGroup weights, those of even index and then those of odd, in steps of `scale`; returns the sum
// of squared errors.
template <bool kPaired>
ASA_INLINE float to_steps(const float (&w)[2][kGroup / 2], float scale,
                          float (&steps)[2][kGroup / 2]) {
  const float inverse = 1.0f / scale;
  vf squares = splat(0.0f);
  for (int k = 0; k < kGroup / 2; k += kLanes) {
    vf step[2] = {round_signed(load(w[0] + k) * inverse), round_signed(load(w[1] + k) * inverse)};
    if constexpr (kPaired) limit_pairs(step[0], step[1]);
    for (int i = 0; i < 2; ++i) {
      const vf off = step[i] * scale - load(w[i] + k);
      squares += off * off;
      store(steps[i] + k, step[i]);
    }
  }
  return sum(squares);
}

// The steps of kGroup weights, and their scale, that leave the least squared error: clipping the
// largest ones a little makes the steps of all others finer, coarser ones leave room for pairs.
template <bool kPaired>
float best_steps(const float (&w)[2][kGroup / 2], float top, float (&steps)[2][kGroup / 2]) {
  constexpr int kFinest = 7, kCoarsest = kPaired ? -14 : 1;
  float best = top / 127.0f, least = to_steps<kPaired>(w, best, steps);
  // Weights that were stored in these steps: no other scale has the largest one within 5e-4.
  if (least < 1e-8f * top * top) return best;
  for (int step = kCoarsest; step <= kFinest; ++step) {
    const float scale = top * (1.0f - (step < 0 ? 0.06f : 0.03f) * float(step)) / 127.0f;
    const float error = to_steps<kPaired>(w, scale, steps);
    if (error < least) {
      least = error;
      best = scale;
    }
  }
  to_steps<kPaired>(w, best, steps);
  return best;
}

inline void pack_int8(const float* w, const Linear& to, int n) {
  const int words = words_of(Precision::int8, to.in);
  int8_t* panel = (int8_t*)(to.panels + size_t(n / kPanel) * words * kPanel) + n % kPanel * 4;
  for (int first = 0, group = 0; first < to.in; first += kGroup, ++group) {
    const int count = to.in - first < kGroup ? to.in - first : kGroup;
    float own[2][kGroup / 2] = {}, whole[2][kGroup / 2], top = kLowest;
    for (int k = 0; k < count; ++k) {
      const float size = __builtin_fabsf(w[first + k]);
      own[k % 2][k / 2] = w[first + k];
      top = top < size ? size : top;
    }
    const float scale = kPairs && to.paired ? best_steps<kPairs>(own, top, whole)
                                            : best_steps<false>(own, top, whole);
    float total = 0.0f;
    for (int k = 0; k < count; ++k) {
      panel[(first + k) / 4 * kPanel * 4 + k % 4] = int8_t(whole[k % 2][k / 2]);
      total += whole[k % 2][k / 2];
    }
    to.scale[group * to.out + n] = scale;
    to.sum[group * to.out + n] = total;
  }
}

inline void pack_int16(const float* w, const Linear& to, int n) {
  const int words = words_of(Precision::int16, to.in);
  int16_t* panel = (int16_t*)(to.panels + size_t(n / kPanel) * words * kPanel) + n % kPanel * 2;
  for (int first = 0, group = 0; first < to.in; first += kGroup, ++group) {
    const int count = to.in - first < kGroup ? to.in - first : kGroup;
    float own[kGroup] = {};
    __builtin_memcpy(own, w + first, sizeof(float) * count);
    const float scale = scale_int16(own, kGroup);
    int32_t whole[kGroup / 2];
    store_int16(own, kGroup, scale, whole);
    for (int k = 0; k < count; ++k) {
      panel[(first + k) / 2 * kPanel * 2 + k % 2] = ((const int16_t*)whole)[k];
    }
    to.scale[group * to.out + n] = scale;
  }
}

inline void pack(const float* w, const float* bias, const Linear& to) {
  const int words = words_of(to.precision, to.in);
  __builtin_memset(to.panels, 0, sizeof(int32_t) * words * size_t(to.out));
  for (int n = 0; n < to.out; ++n, w += to.in) {
    to.bias[n] = bias ? bias[n] : 0.0f;
    if (is_scaled(to.precision)) {
      (to.precision == Precision::int8 ? pack_int8 : pack_int16)(w, to, n);
      continue;
    }
    int32_t* lane = to.panels + size_t(n / kPanel) * words * kPanel + n % kPanel;
    for (int k = 0; k < to.in; ++k) {
      if (to.precision == Precision::fp32) {
        __builtin_memcpy(lane + k * kPanel, w + k, sizeof(float));
      } else {
        ((uint16_t*)(lane + k / 2 * kPanel))[k % 2] = bf16_of(w[k]);
      }
    }
  }
}

inline void pack_steps(const int8_t* steps, const float* scale, const float* bias,
                       const Linear& to) {
  const int words = words_of(Precision::int8, to.in), groups = chunks_of(Precision::int8, to.in);
  __builtin_memset(to.panels, 0, sizeof(int32_t) * words * size_t(to.out));
  for (int n = 0; n < to.out; ++n, steps += to.in, scale += groups) {
    to.bias[n] = bias ? bias[n] : 0.0f;
    int8_t* lane = (int8_t*)(to.panels + size_t(n / kPanel) * words * kPanel) + n % kPanel * 4;
    for (int group = 0; group < groups; ++group) {
      const int first = group * kGroup;
      const int end = to.in - first < kGroup ? to.in : first + kGroup;
      int total = 0;
      for (int k = first; k < end; ++k) {
        lane[k / 4 * kPanel * 4 + k % 4] = steps[k];
        total += steps[k];
      }
      to.scale[group * to.out + n] = scale[group];
      to.sum[group * to.out + n] = float(total);
    }
  }
}

}  // namespace asa::ASA_ISA
