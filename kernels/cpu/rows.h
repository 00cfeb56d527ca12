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

template <int S, int... J>
ASA_INLINE vf swap_lanes(vf v, Lanes<J...>) {
  return __builtin_shufflevector(v, v, (J ^ S)...);
}

struct Add {
  static ASA_INLINE vf of(vf a, vf b) { return a + b; }
};
struct Max {
  static ASA_INLINE vf of(vf a, vf b) { return max(a, b); }
};

// Combines all lanes, pairwise.
template <class Op, int S = kLanes / 2>
ASA_INLINE float reduce(vf v) {
  v = Op::of(v, swap_lanes<S>(v, AllLanes{}));
  if constexpr (S > 1) {
    return reduce<Op, S / 2>(v);
  } else {
    return v[0];
  }
}

ASA_INLINE float sum(vf v) { return reduce<Add>(v); }
ASA_INLINE float highest(vf v) { return reduce<Max>(v); }

typedef uint8_t vb __attribute__((vector_size(kLanes)));

// Quantises kGroup floats to bytes, x = scale (byte - zero); 0 is represented exactly.
ASA_INLINE void quantise_group(const float* x, int32_t* to, float& scale, float& zero) {
  vf low = splat(0.0f), high = splat(0.0f);
  for (int i = 0; i < kGroup; i += kLanes) {
    low = min(low, load(x + i));
    high = max(high, load(x + i));
  }
  const float bottom = -highest(-low);
  const float range = highest(high) - bottom;
  scale = (range > 1e-30f ? range : 1e-30f) / 255.0f;
  const float inverse = 1.0f / scale;
  zero = float(int32_t(0.5f - bottom * inverse));
  const vf shift = splat(zero + 0.5f);
  for (int i = 0; i < kGroup; i += kLanes) {
    const vf y = min(max(load(x + i) * inverse + shift, splat(0.0f)), splat(255.0f));
    const vb bytes = __builtin_convertvector(__builtin_convertvector(y, vi), vb);
    __builtin_memcpy((uint8_t*)to + i, &bytes, sizeof(bytes));
  }
}

// The same for a group of `count` floats, the rest taken for zeros.
ASA_INLINE void quantise(const float* x, int count, int32_t* to, float* scale, float* zero) {
  if (count >= kGroup) {
    quantise_group(x, to, *scale, *zero);
    return;
  }
  float padded[kGroup] = {};
  for (int i = 0; i < count; ++i) padded[i] = x[i];
  quantise_group(padded, to, *scale, *zero);
}

// Writes row r of a tile; `words` and `scale` point at the tile. x may be read up to a whole
// vector pair past `in`; what is read there meets zero weights, so it must be finite.
ASA_INLINE void put_row(Precision precision, const float* x, int in, int r, int32_t* words,
                        float* scale) {
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
      float* at = scale + c * 2 * kRows + r;
      quantise(x, in - c * kGroup, to, at, at + kRows);
      x += kGroup;
    }
  }
}

}  // namespace asa::ASA_ISA
