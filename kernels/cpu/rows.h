// Writing float rows as the words a GEMM reads.
#pragma once

#include "tile.h"

namespace asa::ASA_ISA {

// Two vectors of float to one vector of bfloat16 pairs, rounded to nearest even:
// word i holds elements 2i and 2i + 1 of (a, b) end to end.
ASA_INLINE vi to_bf16(vf a, vf b) {
#if defined(ASA_ISA_AVX512_BF16)
  return (vi)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
#else
  int16_t out[2 * kLanes];
  const vi ra = bits(a) + 0x7fff + ((bits(a) >> 16) & 1);
  const vi rb = bits(b) + 0x7fff + ((bits(b) >> 16) & 1);
  for (int i = 0; i < kLanes; ++i) {
    out[i] = int16_t(ra[i] >> 16);
    out[kLanes + i] = int16_t(rb[i] >> 16);
  }
  vi words;
  __builtin_memcpy(&words, out, sizeof(words));
  return words;
#endif
}

// Word i holds a[i] and b[i].
ASA_INLINE vi pair_bf16(vf a, vf b) {
  const vi ra = bits(a) + 0x7fff + ((bits(a) >> 16) & 1);
  const vi rb = bits(b) + 0x7fff + ((bits(b) >> 16) & 1);
  return ((ra >> 16) & 0xffff) | (rb & int32_t(0xffff0000));
}

ASA_INLINE float sum(vf v) {
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}
ASA_INLINE float highest(vf v) {
  float top = v[0];
  for (int i = 1; i < kLanes; ++i) top = v[i] > top ? v[i] : top;
  return top;
}

ASA_INLINE uint8_t to_byte(float x) {
  const float clamped = x < 0.0f ? 0.0f : x > 255.0f ? 255.0f : x;
  return uint8_t(int32_t(clamped + 0.5f));
}

// Quantises `count` <= kGroup floats to bytes and returns their scale.
ASA_INLINE float quantise_group(const float* x, int count, Range range, uint8_t* bytes) {
  float top = 0.0f;
  float shift = 128.0f;
  if (range == Range::gelu) {
    for (int i = 0; i < count; ++i) top = x[i] > top ? x[i] : top;
    top -= kGeluFloor;
  } else {
    for (int i = 0; i < count; ++i) {
      const float magnitude = __builtin_fabsf(x[i]);
      top = magnitude > top ? magnitude : top;
    }
  }
  const float scale = (top > 1e-30f ? top : 1e-30f) / (range == Range::gelu ? 255.0f : 127.0f);
  const float inverse = 1.0f / scale;
  if (range == Range::gelu) shift = -kGeluFloor * inverse;
  for (int i = 0; i < count; ++i) bytes[i] = to_byte(x[i] * inverse + shift);
  for (int i = count; i < kGroup; ++i) bytes[i] = 0;  // meets zero weights
  return scale;
}

// Writes row r of a tile; `words` and `scale` point at the tile. x may be read up to a whole
// vector pair past `in`; what is read there meets zero weights, so it must be finite.
ASA_INLINE void put_row(Precision precision, Range range, const float* x, int in, int r,
                        int32_t* words, float* scale) {
  const int chunks = chunks_of(precision, in);
  for (int c = 0; c < chunks; ++c) {
    int32_t* to = words + (c * kRows + r) * kChunkWords;
    if (precision == Precision::fp32) {
      for (int i = 0; i < kChunkWords; i += kLanes) store(to + i, bits(load(x + i)));
      x += kChunkWords;
    } else if (precision == Precision::bf16) {
      for (int i = 0; i < kChunkWords; i += kLanes) {
        store(to + i, to_bf16(load(x + 2 * i), load(x + 2 * i + kLanes)));
      }
      x += 2 * kChunkWords;
    } else {
      const int left = in - c * kGroup;
      scale[c * kRows + r] = quantise_group(x, left < kGroup ? left : kGroup, range, (uint8_t*)to);
      x += kGroup;
    }
  }
}

}  // namespace asa::ASA_ISA
