// Writing float rows as the words a GEMM reads.
#pragma once

#include "tile.h"

namespace asa::ASA_ISA {

// Two vectors of float to one vector of bfloat16 pairs, rounded to nearest even:
// word i holds elements 2i and 2i + 1 of (a, b) end to end.
ASA_INLINE vi to_bf16(vf a, vf b) {
#if defined(ASA_ISA_AVX512_BF16)
  return (vi)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
#elif defined(ASA_ISA_NEON_BF16)
  return (vi)vcvtq_high_bf16_f32(vcvtq_low_bf16_f32((float32x4_t)a), (float32x4_t)b);
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
struct LargerSize {
  static ASA_INLINE vf of(vf a, vf b) { return larger_size(a, b); }
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

struct Product {
  static ASA_INLINE vf of(vf w, vf x) { return w * x; }
  static ASA_INLINE float of(float w, float x) { return w * x; }
};
// y[s y_step + r] = the sum over i of Op(w[r][i], x[s x_step + i]), for R rows and S steps.
template <class Op, int R, int S = 1>
ASA_INLINE void sum_rows(const float* w, const float* x, int in, float* y, int x_step = 0,
                         int y_step = 0) {
  vf part[S][R];
  for (auto& step : part) {
    for (vf& one : step) one = splat(0.0f);
  }
  int i = 0;
  for (; i + kLanes <= in; i += kLanes) {
    vf columns[S];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) columns[s] = load(x + s * x_step + i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const vf row = load(w + size_t(r) * in + i);
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) part[s][r] += Op::of(row, columns[s]);
    }
  }
  for (int s = 0; s < S; ++s) {
    for (int r = 0; r < R; ++r) {
      float total = sum(part[s][r]);
      for (int j = i; j < in; ++j) total += Op::of(w[size_t(r) * in + j], x[s * x_step + j]);
      y[s * y_step + r] = total;
    }
  }
}
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

#if defined(ASA_YMM)
// The same of four vectors.
ASA_INLINE void store_bytes(uint8_t* to, const vf (&y)[4]) {
  __m256i whole[4];
  for (int i = 0; i < 4; ++i) whole[i] = _mm256_cvttps_epi32((__m256)y[i]);
  const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(whole[0], whole[1]),
                                            _mm256_packs_epi32(whole[2], whole[3]));
  // Packing works within halves: it leaves the quarters of one vector apart.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256((__m256i*)to, _mm256_permutevar8x32_epi32(bytes, order));
}
#endif

// Quantises `count` floats, whole vectors, to bytes, x = scale (byte - zero); 0 is exact. None is
// below `least`; where that is not known it is found. What holds NaN or an infinity gets NaN for a
// scale: bytes know none, and it must not come out as a number.
template <bool kLeast = false>
ASA_INLINE void quantise_vectors(const float* x, int count, int32_t* to, float& scale, float& zero,
                                 float least = 0.0f) {
  vf low = splat(0.0f), high = splat(0.0f), nothing = splat(0.0f);
  for (int i = 0; i < count; i += kLanes) {
    if (!kLeast) low = min(low, load(x + i));
    high = max(high, load(x + i));
    nothing += load(x + i) * 0.0f;
  }
  const float bottom = kLeast ? least : -highest(-low);
  const float range = reduce<LargerSize>(size_of(high + nothing)) - bottom;
  scale = (range <= 1e-30f ? 1e-30f : range) / 255.0f;
  const float inverse = 1.0f / scale;
  zero = float(int32_t(0.5f - bottom * inverse));
  const vf shift = splat(zero + 0.5f);
  int i = 0;
#if defined(ASA_YMM)
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    vf y[4];
    for (int k = 0; k < 4; ++k) y[k] = load(x + i + k * kLanes) * inverse + shift;
    store_bytes((uint8_t*)to + i, y);
  }
#endif
  for (; i < count; i += kLanes) {
    store_bytes((uint8_t*)to + i, load(x + i) * inverse + shift);
  }
}

// Rounds to the nearest whole number, in [-kMost, kMost].
template <int kMost = 127>
ASA_INLINE vf round_signed(vf x) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23
  return min(max((x + magic) - magic, splat(float(-kMost))), splat(float(kMost)));
}

// The same to signed bytes, x = scale byte; `sum` is that of the bytes, scaled. The scale of NaN is
// NaN, of an infinity infinite, and so is what is made of it.
ASA_INLINE void quantise_signed(const float* x, int count, int32_t* to, float& scale, float& sum) {
  vf top = splat(1e-30f);
  for (int i = 0; i < count; i += kLanes) top = larger_size(top, size_of(load(x + i)));
  scale = reduce<LargerSize>(top) / 127.0f;
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

// The nearest whole numbers of at most kMostInt16, two to a word: word i holds elements 2i and
// 2i + 1 of (a, b) end to end.
ASA_INLINE vi to_int16(vf a, vf b) {
  const vi whole[2] = {__builtin_convertvector(round_signed<kMostInt16>(a), vi),
                       __builtin_convertvector(round_signed<kMostInt16>(b), vi)};
#if defined(ASA_YMM)
  return (vi)_mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)whole[0], (__m256i)whole[1]),
                                      0xd8);
#else
  int16_t out[2 * kLanes];
  for (int i = 0; i < 2 * kLanes; ++i) out[i] = int16_t(whole[i / kLanes][i % kLanes]);
  vi words;
  __builtin_memcpy(&words, out, sizeof(words));
  return words;
#endif
}

// The scale by which `count` floats, whole vectors, become 16-bit integers, x = scale integer. That
// of NaN is NaN, of an infinity infinite.
ASA_INLINE float scale_int16(const float* x, int count) {
  vf top = splat(1e-30f);
  for (int i = 0; i < count; i += kLanes) top = larger_size(top, size_of(load(x + i)));
  return reduce<LargerSize>(top) / float(kMostInt16);
}

// Their words, `count` whole pairs of vectors.
ASA_INLINE void store_int16(const float* x, int count, float scale, int32_t* to) {
  const float inverse = 1.0f / scale;
  for (int i = 0; i < count; i += 2 * kLanes) {
    store(to + i / 2, to_int16(load(x + i) * inverse, load(x + i + kLanes) * inverse));
  }
}

// Writes a group of a row of integers, of which `count` floats count.
template <bool kLeast = false>
ASA_INLINE void put_group(const Rows& to, int row, int group, const float* x, int count,
                          float least = 0.0f) {
  const int chunks = chunks_of(to.precision, to.in), r = row % kRows;
  const size_t tile = row / kRows;
  float* scale = to.scale + (tile * groups_of(to.in) + group) * 2 * kRows + r;
  int32_t* words = to.words + (tile * chunks * kRows + r) * kChunkWords;
  if (to.precision == Precision::int8) {
    quantise<kLeast>(x, count, words + group * kTileWords, scale, scale + kRows, least);
    return;
  }
  float padded[kGroup];
  if (count < kGroup) {
    for (int i = 0; i < kGroup; ++i) padded[i] = i < count ? x[i] : 0.0f;
    x = padded;
  }
  *scale = scale_int16(x, kGroup);
  constexpr int kHalf = 2 * kChunkWords;
  for (int i = 0; i < kGroup && i < count; i += kHalf) {
    store_int16(x + i, kHalf, *scale, words + (2 * group + i / kHalf) * kTileWords);
  }
}

// Writes a row. x may be read up to a whole vector pair past `in`, or to the end of its group; what
// is read there meets zero weights, so it must be finite.
ASA_INLINE void put_row(const Rows& to, const float* x, int row) {
  const int chunks = chunks_of(to.precision, to.in);
  if (is_scaled(to.precision)) {
    for (int g = 0; g * kGroup < to.in; ++g)
      put_group(to, row, g, x + g * kGroup, to.in - g * kGroup);
    return;
  }
  int32_t* words = to.words + (size_t(row / kRows) * chunks * kRows + row % kRows) * kChunkWords;
  for (int c = 0; c < chunks; ++c, words += kTileWords) {
    if (to.precision == Precision::fp32) {
      for (int i = 0; i < kChunkWords; i += kLanes) store(words + i, bits(load(x + i)));
      x += kChunkWords;
    } else {
      for (int i = 0; i < kChunkWords; i += kLanes) {
        store(words + i, to_bf16(load(x + 2 * i), load(x + 2 * i + kLanes)));
      }
      x += 2 * kChunkWords;
    }
  }
}

}  // namespace asa::ASA_ISA
