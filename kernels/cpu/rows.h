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
typedef int8_t vsb __attribute__((vector_size(kLanes)));

// Of y in (-1, 257), its whole part as a byte, 256 as 255.
ASA_INLINE void store_bytes(uint8_t* to, vf y) {
#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
  _mm_storeu_si128((__m128i*)to, _mm512_cvtusepi32_epi8(_mm512_cvttps_epi32((__m512)y)));
#else
  y = min(max(y, splat(0.0f)), splat(255.0f));
  const vb bytes = __builtin_convertvector(__builtin_convertvector(y, vi), vb);
  __builtin_memcpy(to, &bytes, sizeof(bytes));
#endif
}

// Quantises `count` floats, whole vectors, to bytes, x = scale (byte - zero); 0 is exact. None is
// below `least`; where that is not known it is found.
template <bool kLeast = false>
ASA_INLINE void quantise_vectors(const float* x, int count, int32_t* to, float& scale, float& zero,
                                 float least = 0.0f) {
  vf low = splat(0.0f), high = splat(0.0f);
  for (int i = 0; i < count; i += kLanes) {
    if (!kLeast) low = min(low, load(x + i));
    high = max(high, load(x + i));
  }
  const float bottom = kLeast ? least : -highest(-low);
  const float range = highest(high) - bottom;
  scale = (range > 1e-30f ? range : 1e-30f) / 255.0f;
  const float inverse = 1.0f / scale;
  zero = float(int32_t(0.5f - bottom * inverse));
  const vf shift = splat(zero + 0.5f);
  for (int i = 0; i < count; i += kLanes) {
    store_bytes((uint8_t*)to + i, load(x + i) * inverse + shift);
  }
}

// Rounds to the nearest whole number, in [-127, 127].
ASA_INLINE vf round_signed(vf x) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23
  return min(max((x + magic) - magic, splat(-127.0f)), splat(127.0f));
}

// The same to signed bytes, x = scale byte; `sum` is that of the bytes, scaled.
ASA_INLINE void quantise_signed(const float* x, int count, int32_t* to, float& scale, float& sum) {
  vf top = splat(1e-30f);
  for (int i = 0; i < count; i += kLanes) top = max(top, max(load(x + i), -load(x + i)));
  scale = highest(top) / 127.0f;
  const float inverse = 1.0f / scale;
  vf total = splat(0.0f);
  for (int i = 0; i < count; i += kLanes) {
    const vf y = round_signed(load(x + i) * inverse);
    total += y;
    const vsb bytes = __builtin_convertvector(__builtin_convertvector(y, vi), vsb);
    __builtin_memcpy((int8_t*)to + i, &bytes, sizeof(bytes));
  }
  sum = scale * reduce<Add>(total);
}

// The bytes of a group, of which `count` floats count, the rest taken for zeros.
template <bool kLeast = false>
ASA_INLINE void quantise(const float* x, int count, int32_t* to, float* scale, float* zero,
                         float least = 0.0f) {
  if (count >= kGroup) {
    quantise_vectors<kLeast>(x, kGroup, to, *scale, *zero, least);
    return;
  }
  float padded[kGroup] = {};
  for (int i = 0; i < count; ++i) padded[i] = x[i];
  quantise_vectors<kLeast>(padded, kGroup, to, *scale, *zero, least);
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
