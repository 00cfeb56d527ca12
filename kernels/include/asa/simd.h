// Vectors of the instruction set this file is compiled for. Arithmetic is the compiler's own
// (GCC and Clang vector extensions); only what these lack is written with intrinsics.
// No std:: templates here or in any per-ISA file: the linker keeps one copy of an inline function,
// and might keep one that the running CPU cannot execute.
#pragma once

#include <cstdint>

#if defined(ASA_ISA_AVX2) || defined(ASA_ISA_AVX_VNNI)
#define ASA_YMM  // eight lanes
#endif
#if defined(ASA_ISA_NEON) || defined(ASA_ISA_NEON_DOT) || defined(ASA_ISA_NEON_BF16)
#define ASA_ARM
#endif
#if defined(ASA_YMM) || defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
#include <immintrin.h>
#elif defined(ASA_ARM)
#include <arm_neon.h>
#endif

#define ASA_INLINE inline __attribute__((always_inline))

namespace asa::ASA_ISA {

#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
inline constexpr int kLanes = 16;
#elif defined(ASA_YMM)
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
ASA_INLINE vf splat(float x) { return x - vf{}; }
ASA_INLINE vi splat(int32_t x) { return x - vi{}; }
ASA_INLINE vi bits(vf v) { return (vi)v; }
ASA_INLINE vf from_bits(vi v) { return (vf)v; }
ASA_INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }

// Where either is NaN max and min give b, as the instruction does: what may be NaN goes second, or
// it is lost. The larger of two sizes, none negative, is NaN if either is: as an integer it lies
// beyond all numbers.
#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
ASA_INLINE vf max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
ASA_INLINE vf min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
ASA_INLINE vf larger_size(vf a, vf b) { return (vf)_mm512_max_epi32((__m512i)a, (__m512i)b); }
#elif defined(ASA_YMM)
ASA_INLINE vf max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
ASA_INLINE vf min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
ASA_INLINE vf larger_size(vf a, vf b) { return (vf)_mm256_max_epi32((__m256i)a, (__m256i)b); }
#else
ASA_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
ASA_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
ASA_INLINE vf larger_size(vf a, vf b) { return bits(a) > bits(b) ? a : b; }
#endif
ASA_INLINE vf size_of(vf v) { return from_bits(bits(v) & 0x7fffffff); }

// By Horner's rule; the highest power's coefficient first.
template <class... Coefficients>
ASA_INLINE vf polynomial(vf x, float first, Coefficients... others) {
  vf p = splat(first);
  ((p = p * x + others), ...);
  return p;
}

// log2 of positive normal numbers, absolute error below 1e-7 + 1 ulp of the result.
ASA_INLINE vf log2(vf x) {
  // Split x = 2^e * m with m in [sqrt(1/2), sqrt(2)); 0x3f3504f3 is sqrt(1/2).
  const vi shifted = bits(x) - 0x3f3504f3;
  const vf e = to_float(shifted >> 23);
  const vf f = from_bits((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
  const vf p = polynomial(f, 0.126148466f, -0.207421035f, 0.215669859f, -0.23892034f, 0.287918324f,
                          -0.360704828f, 0.48091061f, -0.721347333f, 1.442695f);
  return p * f + e;
}

// 2^x; 0 for x below -126, infinity from 128, NaN for NaN. The polynomial's relative error is
// below 1.1e-4 where the result is rounded to bfloat16 anyway, and 3e-7 otherwise.
template <bool kCoarse>
ASA_INLINE vf exp2(vf x) {
#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
  const vf f = (vf)_mm512_reduce_ps((__m512)x, 0x9);  // x - floor(x)
#else
  x = min(splat(128.0f), max(splat(-127.0f), x));
  const vi truncated = __builtin_convertvector(x, vi);
  const vi whole = truncated + (to_float(truncated) > x);  // a true comparison is -1
  const vf f = x - to_float(whole);
#endif
  vf p;
  if constexpr (kCoarse) {
    p = polynomial(f, 0.0779071638f, 0.226233194f, 0.695777096f, 0.999927827f);
  } else {
    p = polynomial(f, 0.00187623295f, 0.00899258403f, 0.0558236045f, 0.24015453f, 0.693152968f,
                   0.999999927f);
  }
#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
  return p * from_bits((whole + 127) << 23);
#endif
}

#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
// r(a) = a erfc(a / sqrt 2) / 2 near a = i / 7 is c0[i] + d (c1[i] + d c2[i]), d = 7 a - i.
alignas(64) inline constexpr float kGeluTail[3][32] = {
    {0.0f,
     0.0633140877f,
     0.110727787f,
     0.143192977f,
     0.162202448f,
     0.169660851f,
     0.167728305f,
     0.158655375f,
     0.144627571f,
     0.127634883f,
     0.109376989f,
     0.0912083983f,
     0.074122712f,
     0.058770217f,
     0.0455003269f,
     0.0344192609f,
     0.0254525878f,
     0.0184066892f,
     0.0130216964f,
     0.00901396945f,
     0.00610673847f,
     0.00404966809f,
     0.00262909266f,
     0.00167116057f,
     0.00104015379f,
     0.000633984862f,
     0.000378435157f,
     0.000221238311f,
     0.000126679646f,
     7.10475724e-05f,
     3.90304267e-05f,
     2.10030666e-05f},
    {0.0714261979f,    0.0552758835f,    0.0397709683f,   0.0255034082f,    0.0129543319f,
     0.00245992304f,   -0.00580696296f,  -0.0118361255f,  -0.0157620795f,   -0.0178330094f,
     -0.0183721669f,   -0.017737601f,    -0.016285412f,   -0.0143403709f,   -0.0121759623f,
     -0.0100042112f,   -0.00797429495f,  -0.00617767591f, -0.00465775607f,  -0.00342140486f,
     -0.00245056837f,  -0.00171257649f,  -0.00116838445f, -0.000778510817f, -0.000506809505f,
     -0.000322447537f, -0.000200548835f, -0.00012196193f, -7.25361388e-05f, -4.21970944e-05f,
     -2.40143836e-05f, -1.33713811e-05f},
    {-0.00813054387f, -0.00796853844f, -0.00748991966f, -0.00673978031f, -0.00578290829f,
     -0.00469802041f, -0.00356822368f, -0.00247169961f, -0.00147394836f, -0.00062254793f,
     5.5135155e-05f,  0.000551386387f, 0.000875278201f, 0.00104832277f,  0.00109993387f,
     0.00106061611f,  0.000962241844f, 0.000831088924f, 0.000688392902f, 0.000549453543f,
     0.000424000958f, 0.000317087048f, 0.000230217134f, 0.000162493568f, 0.000111619178f,
     7.46822698e-05f, 4.87051839e-05f, 3.09786083e-05f, 1.92259104e-05f, 1.16473502e-05f,
     6.89022772e-06f, 3.98140583e-06f},
};

ASA_INLINE vf look_up(const float* table, vi index) {
  return (vf)_mm512_permutex2var_ps((__m512)load(table), (__m512i)index,
                                    (__m512)load(table + kLanes));
}

// GELU as max(x, 0) - r(|x|): half the instructions of the polynomial, a third on the units that
// multiply. Absolute error below 2e-5.
ASA_INLINE vf gelu_by_table(vf x) {
  const vf a = min(from_bits(bits(x) & 0x7fffffff) * 7.0f, splat(31.49f));
  const vf magic = a + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are a, rounded
  const vf d = a - (magic - 12582912.0f);
  const vi i = bits(magic);
  const vf tail =
      look_up(kGeluTail[0], i) + d * (look_up(kGeluTail[1], i) + d * look_up(kGeluTail[2], i));
  return max(splat(0.0f), x) - tail;
}
#endif

// GELU, x (1 + erf(x / sqrt 2)) / 2, from erf(z) = z P(z^2) on [0, limit]. Absolute error below
// 5e-5 where the result is rounded to 8 bits anyway, and 2e-6 otherwise.
template <bool kCoarse>
ASA_INLINE vf gelu(vf x) {
#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
  if constexpr (kCoarse) return gelu_by_table(x);
#endif
  constexpr float limit = kCoarse ? 3.0f : 3.5f;
  const vf z = min(max(x * 0.707106781f, splat(-limit)), splat(limit));
  const vf u = z * z * (2.0f / (limit * limit)) - 1.0f;
  vf p;
  if constexpr (kCoarse) {
    p = polynomial(u, 0.00568052995f, -0.0170002353f, 0.0259005919f, -0.0409654646f, 0.0713117066f,
                   -0.110662528f, 0.157709344f, -0.228772389f, 0.470126762f);
  } else {
    p = polynomial(u, 0.00144169144f, -0.00397530026f, 0.00458891802f, -0.00726073734f,
                   0.0169252397f, -0.0299997465f, 0.0450769672f, -0.0647840929f, 0.0883885973f,
                   -0.114610488f, 0.146751259f, -0.200701142f, 0.40387297f);
  }
  const vf half = 0.5f * x;
  return half + half * (z * p);
}

template <int... J>
struct Lanes {};
#if defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif defined(ASA_YMM)
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
