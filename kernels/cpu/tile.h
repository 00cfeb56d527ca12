// The inner loop of every matrix product: kRows x kPanel outputs held in registers.
#pragma once

#include "asa/linear.h"
#include "asa/simd.h"

namespace asa::ASA_ISA {

#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16) || defined(ASA_ISA_NEON)
inline constexpr int kRows = 12;  // 24 accumulators of 32 registers
#else
inline constexpr int kRows = 6;  // 12 accumulators of 16 registers
#endif
inline constexpr int kVectors = 2;
inline constexpr int kPanel = kVectors * kLanes;
inline constexpr int kTileWords = kRows * kChunkWords;

struct Fp32 {
  static constexpr Precision precision = Precision::fp32;
  using Acc = vf;
  static ASA_INLINE vf step(vf acc, int32_t a, vi b) {
    return acc + from_bits(splat(a)) * from_bits(b);
  }
};

struct Bf16 {
  static constexpr Precision precision = Precision::bf16;
  using Acc = vf;
  static ASA_INLINE vf step(vf acc, int32_t a, vi b) {
#if defined(ASA_ISA_AVX512_BF16)
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)splat(a), (__m512bh)b);
#else
    const vi high = splat(int32_t(0xffff0000)), wide = splat(a);
    acc += from_bits(wide << 16) * from_bits(b << 16);
    return acc + from_bits(wide & high) * from_bits(b & high);
#endif
  }
};

// Unsigned bytes of a times signed bytes of b, exact in int32.
struct Int8 {
  static constexpr Precision precision = Precision::int8;
  using Acc = vi;
#if defined(ASA_ISA_NEON)
  static constexpr float kOffset = 128.0f;  // its dot product wants two signs: a - 128 times b
#else
  static constexpr float kOffset = 0.0f;
#endif
  static ASA_INLINE vi step(vi acc, int32_t a, vi b) {
#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)splat(a), (__m512i)b);
#elif defined(ASA_ISA_AVX2)
    // _mm256_maddubs_epi16 would saturate, so even and odd bytes are widened first.
    const __m256i even_a = _mm256_set1_epi32(a & 0x00ff00ff);
    const __m256i odd_a = _mm256_set1_epi32((a >> 8) & 0x00ff00ff);
    const __m256i even_b = _mm256_srai_epi16(_mm256_slli_epi16((__m256i)b, 8), 8);
    const __m256i odd_b = _mm256_srai_epi16((__m256i)b, 8);
    return acc + (vi)_mm256_madd_epi16(even_a, even_b) + (vi)_mm256_madd_epi16(odd_a, odd_b);
#elif defined(ASA_ISA_NEON)
    return (vi)vdotq_s32((int32x4_t)acc, (int8x16_t)(splat(a) ^ splat(int32_t(0x80808080))),
                         (int8x16_t)b);
#else
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) acc += ((a >> (8 * i)) & 255) * ((b << (24 - 8 * i)) >> 24);
    return acc;
#endif
  }
};

// acc += the first R rows of one tile times the first V vectors of one panel, over `words` words
// (all chunks of the tile).
template <class Op, int R, int V>
ASA_INLINE void multiply(const int32_t* a, const int32_t* b, int words,
                         typename Op::Acc (&acc)[R][V]) {
  for (; words > 0; words -= kChunkWords, a += kTileWords) {
    const int n = words < kChunkWords ? words : kChunkWords;
    for (int k = 0; k < n; ++k, b += kPanel) {
      vi column[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        column[v] = load(b + v * kLanes);
        if (Op::precision == Precision::int8) __builtin_prefetch(b + v * kLanes + 24 * kPanel);
      }
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          acc[r][v] = Op::step(acc[r][v], a[r * kChunkWords + k], column[v]);
        }
      }
    }
  }
}

}  // namespace asa::ASA_ISA
