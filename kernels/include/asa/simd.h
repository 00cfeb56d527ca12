// Vectors of the instruction set this file is compiled for. Arithmetic is the compiler's own
// (GCC and Clang vector extensions); only what these lack is written with intrinsics.
// No std:: templates here or in any per-ISA file: the linker keeps one copy of an inline function,
// and might keep one that the running CPU cannot execute.
#pragma once

#include <cstdint>

#if defined(ASA_ISA_AVX2) || defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
#include <immintrin.h>
#elif defined(ASA_ISA_NEON)
#include <arm_neon.h>
#endif

#define ASA_INLINE inline __attribute__((always_inline))

namespace asa::ASA_ISA {

#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
inline constexpr int kLanes = 16;
#elif defined(ASA_ISA_AVX2)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float vf __attribute__((vector_size(kLanes * 4)));
typedef int32_t vi __attribute__((vector_size(kLanes * 4)));

ASA_INLINE vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
ASA_INLINE vi load(const int32_t* p) {
  vi v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
ASA_INLINE void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof(v)); }
ASA_INLINE void store(int32_t* p, vi v) { __builtin_memcpy(p, &v, sizeof(v)); }
ASA_INLINE vf splat(float x) { return vf{} + x; }
ASA_INLINE vi splat(int32_t x) { return vi{} + x; }
ASA_INLINE vi bits(vf v) { return (vi)v; }
ASA_INLINE vf from_bits(vi v) { return (vf)v; }
ASA_INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }

#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
ASA_INLINE vf max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
ASA_INLINE vf min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(ASA_ISA_AVX2)
ASA_INLINE vf max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
ASA_INLINE vf min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#else
ASA_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
ASA_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
#endif

// log2 of positive normal numbers, absolute error below 1e-7 + 1 ulp of the result.
ASA_INLINE vf log2(vf x) {
  // Split x = 2^e * m with m in [sqrt(1/2), sqrt(2)); 0x3f3504f3 is sqrt(1/2).
  const vi shifted = bits(x) - 0x3f3504f3;
  const vf e = to_float(shifted >> 23);
  const vf f = from_bits((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
  vf p = splat(0.126148466f);
  p = p * f + -0.207421035f;
  p = p * f + 0.215669859f;
  p = p * f + -0.23892034f;
  p = p * f + 0.287918324f;
  p = p * f + -0.360704828f;
  p = p * f + 0.48091061f;
  p = p * f + -0.721347333f;
  p = p * f + 1.442695f;
  return p * f + e;
}

template <int... J>
struct Lanes {};
#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif defined(ASA_ISA_AVX2)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using AllLanes = Lanes<0, 1, 2, 3>;
#endif

template <int S, int... J>
ASA_INLINE void exchange(vf& a, vf& b, Lanes<J...>) {
  const vf low = __builtin_shufflevector(a, b, ((J & S) ? kLanes + J - S : J)...);
  const vf high = __builtin_shufflevector(a, b, ((J & S) ? kLanes + J : J + S)...);
  a = low;
  b = high;
}

template <int S>
ASA_INLINE void transpose_steps(vf* rows) {
  if constexpr (S > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (!(i & S)) exchange<S>(rows[i], rows[i + S], AllLanes{});
    }
    transpose_steps<S / 2>(rows);
  }
}

// Transposes a kLanes x kLanes block held in kLanes vectors.
ASA_INLINE void transpose(vf* rows) { transpose_steps<kLanes / 2>(rows); }

}  // namespace asa::ASA_ISA
