// The inner loop of every matrix product: kRows x kPanel outputs held in registers.
#pragma once

#include "asa/linear.h"
#include "asa/simd.h"

namespace asa::ASA_ISA {

#if defined(ASA_ISA_AMX)
inline constexpr int kRows = 32;  // 4 accumulators of 8 tile registers
inline constexpr int kBlock = 8;  // rows that vectors multiply: 16 accumulators of 32
inline constexpr int kParts = 2;  // a tile that is not full is done in such parts
#elif defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16) || \
    (defined(ASA_ARM) && defined(__aarch64__))
inline constexpr int kRows = 12;  // 24 accumulators of 32 registers
inline constexpr int kBlock = kRows, kParts = 3;
#else
inline constexpr int kRows = 6;  // 12 accumulators of 16 registers
inline constexpr int kBlock = kRows, kParts = 3;
#endif
inline constexpr int kVectors = 2;
inline constexpr int kPanel = kVectors * kLanes;
inline constexpr int kTileWords = kRows * kChunkWords;

}  // namespace asa::ASA_ISA

#if defined(ASA_ISA_AMX)
#include "amx.h"
#endif

namespace asa::ASA_ISA {

#if !defined(ASA_ISA_AMX)
struct TileRegisters {
  TileRegisters() {}  // none to be held
};
#endif

struct Fp32 {
  static constexpr Precision precision = Precision::fp32;
  static constexpr bool kTiles = false;
  using Acc = vf;
  static ASA_INLINE vf step(vf acc, int32_t a, vi b) {
    return acc + from_bits(splat(a)) * from_bits(b);
  }
};

struct Bf16 {
  static constexpr Precision precision = Precision::bf16;
  static constexpr bool kTiles = true;
  using Acc = vf;
  static ASA_INLINE vf step(vf acc, int32_t a, vi b) {
#if defined(ASA_ISA_AVX512_BF16)
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)splat(a), (__m512bh)b);
#elif defined(ASA_ISA_NEON_BF16)
    return (vf)vbfdotq_f32((float32x4_t)acc, (bfloat16x8_t)splat(a), (bfloat16x8_t)b);
#else
    const vi high = splat(int32_t(0xffff0000)), wide = splat(a);
    acc += from_bits(wide << 16) * from_bits(b << 16);
    return acc + from_bits(wide & high) * from_bits(b & high);
#endif
  }
};

#if defined(ASA_ISA_AVX2)
alignas(32) inline constexpr int16_t kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// acc + the products of 16-bit integers, or of bytes where no sum of two leaves 16 bits. In
// assembly, because with 12 sums, two columns, a row and one product all 16 registers are taken:
// compilers keep two products and spill a sum, on whose way through memory each step then waits.
template <bool kBytes>
ASA_INLINE vi madd_add(vi acc, vi a, vi b) {
  vi product;
  if constexpr (kBytes) {
    asm("vpmaddubsw %[b], %[a], %[product]\n\t"
        "vpmaddwd %[ones], %[product], %[product]\n\t"
        "vpaddd %[product], %[acc], %[acc]"
        : [acc] "+x"(acc), [product] "=&x"(product)
        : [a] "x"(a), [b] "x"(b), [ones] "m"(kOnes));
  } else {
    asm("vpmaddwd %[b], %[a], %[product]\n\t"
        "vpaddd %[product], %[acc], %[acc]"
        : [acc] "+x"(acc), [product] "=&x"(product)
        : [a] "x"(a), [b] "x"(b));
  }
  return acc;
}
#endif

#if defined(ASA_ISA_NEON)
// acc + the products of signed bytes, four a lane. No sum of two leaves 16 bits while none of b is
// -128, and packing makes none.
ASA_INLINE vi multiply_add(vi acc, int8x16_t a, int8x16_t b) {
  const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
  const int16x8_t high = vmull_s8(vget_high_s8(a), vget_high_s8(b));
#if defined(__aarch64__)
  const int16x8_t pairs = vpaddq_s16(low, high);
#else
  const int16x8_t pairs = vcombine_s16(vpadd_s16(vget_low_s16(low), vget_high_s16(low)),
                                       vpadd_s16(vget_low_s16(high), vget_high_s16(high)));
#endif
  return (vi)vpadalq_s16((int32x4_t)acc, pairs);
}
#endif

// Unsigned bytes of a times signed bytes of b, exact in int32.
struct Int8 {
  static constexpr Precision precision = Precision::int8;
  static constexpr bool kTiles = true;
  using Acc = vi;
#if defined(ASA_ISA_NEON) || defined(ASA_ISA_NEON_DOT)
  static constexpr float kOffset = 128.0f;  // its products want two signs: a - 128 times b
#else
  static constexpr float kOffset = 0.0f;
#endif
#if defined(ASA_ISA_AVX2)
  // _mm256_maddubs_epi16 would saturate, so bytes are widened; those of b stay in the upper halves,
  // which saves a shift: sums are 256 times too large, and still fit.
  static constexpr int kShift = 8;
#else
  static constexpr int kShift = 0;
#endif
  static ASA_INLINE vi step(vi acc, int32_t a, vi b) {
#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)splat(a), (__m512i)b);
#elif defined(ASA_ISA_AVX_VNNI)
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)splat(a), (__m256i)b);
#elif defined(ASA_ISA_AVX2)
    const __m256i even_a = (__m256i)(splat(a) & 0x00ff00ff);
    const __m256i odd_a = _mm256_srli_epi16((__m256i)splat(a), 8);
    const __m256i even_b = _mm256_slli_epi16((__m256i)b, 8);
    const __m256i odd_b = (__m256i)(b & int32_t(0xff00ff00));
    return acc + (vi)_mm256_madd_epi16(even_a, even_b) + (vi)_mm256_madd_epi16(odd_a, odd_b);
#elif defined(ASA_ISA_NEON_BF16)
    return (vi)vusdotq_s32((int32x4_t)acc, (uint8x16_t)splat(a), (int8x16_t)b);
#elif defined(ASA_ISA_NEON_DOT)
    return (vi)vdotq_s32((int32x4_t)acc, (int8x16_t)(splat(a) ^ splat(int32_t(0x80808080))),
                         (int8x16_t)b);
#elif defined(ASA_ISA_NEON)
    return multiply_add(acc, (int8x16_t)(splat(a) ^ splat(int32_t(0x80808080))), (int8x16_t)b);
#else
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) acc += ((a >> (8 * i)) & 255) * ((b << (24 - 8 * i)) >> 24);
    return acc;
#endif
  }
  static ASA_INLINE vf total(vi acc) { return to_float(acc >> kShift); }
};

// The same where the weights are `Linear::paired`: no sum of two products leaves 16 bits.
#if defined(ASA_ISA_AVX2)
struct PairedInt8 : Int8 {
  static ASA_INLINE vi step(vi acc, int32_t a, vi b) { return madd_add<true>(acc, splat(a), b); }
  static ASA_INLINE vf total(vi acc) { return to_float(acc); }
};
inline constexpr bool kPairs = true;
#else
using PairedInt8 = Int8;
inline constexpr bool kPairs = false;
#endif

// Integers of 16 bits, both signed, exact in int32.
struct Int16 {
  static constexpr Precision precision = Precision::int16;
  static constexpr bool kTiles = false;
  using Acc = vi;
  static ASA_INLINE vi step(vi acc, int32_t a, vi b) {
#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
    return (vi)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)splat(a), (__m512i)b);
#elif defined(ASA_ISA_AVX_VNNI)
    return (vi)_mm256_dpwssd_avx_epi32((__m256i)acc, (__m256i)splat(a), (__m256i)b);
#elif defined(ASA_ISA_AVX2)
    return madd_add<false>(acc, splat(a), b);
#else
    acc += (int32_t(uint32_t(a) << 16) >> 16) * ((b << 16) >> 16);
    return acc + (a >> 16) * (b >> 16);
#endif
  }
  static ASA_INLINE vf total(vi acc) { return to_float(acc); }
};

// acc += the first R rows of one tile times the first V vectors of one panel, over `words` words
// (all chunks of the tile).
template <class Op, int R, int V>
ASA_INLINE void multiply_vectors(const int32_t* a, const int32_t* b, int words,
                                 typename Op::Acc (&acc)[R][V]) {
  for (; words > 0; words -= kChunkWords, a += kTileWords) {
    const int n = words < kChunkWords ? words : kChunkWords;
    for (int k = 0; k < n; ++k, b += kPanel) {
      vi column[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        column[v] = load(b + v * kLanes);
        if (Op::precision == Precision::int8 && (v == 0 || kLanes > 8))
          __builtin_prefetch(b + v * kLanes + 24 * kPanel);
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

#if defined(ASA_ISA_AMX)
// The same on tile registers where they know the numbers; what is left of a step, and other
// numbers, on vectors.
template <class Op, int R, int V>
ASA_INLINE void multiply(const int32_t* a, const int32_t* b, int words,
                         typename Op::Acc (&acc)[R][V]) {
  static_assert(R % kBlock == 0);
  if constexpr (R % kTileRows == 0 && Op::kTiles) {
    const int steps = words / kTileStep;
    multiply_tiles<Op::precision == Precision::int8, R / kTileRows, V>(a, b, steps, acc);
    a += steps / 2 * kTileWords + steps % 2 * kTileStep;
    b += steps * kTileStep * kPanel;
    words -= steps * kTileStep;
    if (words == 0) return;
  }
  for (int r = 0; r < R; r += kBlock) {
    typename Op::Acc some[kBlock][V];
    __builtin_memcpy(some, acc + r, sizeof(some));
    multiply_vectors<Op>(a + r * kChunkWords, b, words, some);
    __builtin_memcpy(acc + r, some, sizeof(some));
  }
}
#else
template <class Op, int R, int V>
ASA_INLINE void multiply(const int32_t* a, const int32_t* b, int words,
                         typename Op::Acc (&acc)[R][V]) {
  multiply_vectors<Op>(a, b, words, acc);
}
#endif

}  // namespace asa::ASA_ISA
