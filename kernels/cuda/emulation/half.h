// The two 16-bit floats, as bits; rounding to nearest, ties to even, as the GPU rounds.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace asa::cuda::emulation {

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

struct Bf16 {
  std::uint16_t bits;

  Bf16() = default;
  explicit Bf16(float x) {
    const std::uint32_t all = bits_of(x);
    bits = std::isnan(x) ? 0x7fff : std::uint16_t((all + 0x7fff + (all >> 16 & 1)) >> 16);
  }
  float value() const { return float_of(std::uint32_t(bits) << 16); }
};

struct Fp16 {
  std::uint16_t bits;

  Fp16() = default;
  explicit Fp16(float x) {
    const std::uint32_t all = bits_of(x);
    const std::uint16_t sign = std::uint16_t(all >> 16 & 0x8000);
    const float size = std::fabs(x);
    if (std::isnan(x)) {
      bits = 0x7fff;
    } else if (size >= 65520.0f) {
      bits = sign | 0x7c00;
    } else if (size < 0x1p-14f) {
      // Subnormal: adding 2^-1 leaves the rounded multiple of 2^-24 in the lowest bits.
      bits = sign | std::uint16_t(bits_of(size + 0.5f) - bits_of(0.5f));
    } else {
      const std::uint32_t rebased = bits_of(size) - (112u << 23);
      bits = sign | std::uint16_t((rebased + 0xfff + (rebased >> 13 & 1)) >> 13);
    }
  }
  float value() const {
    const std::uint32_t sign = std::uint32_t(bits & 0x8000) << 16;
    const std::uint32_t rest = bits & 0x7fff;
    float size;
    if (rest >= 0x7c00) {
      size = float_of(rest == 0x7c00 ? 0x7f800000 : 0x7fc00000);
    } else if (rest < 0x400) {
      size = float(rest) * 0x1p-24f;
    } else {
      size = float_of((rest << 13) + (112u << 23));
    }
    return float_of(bits_of(size) | sign);
  }
};

}  // namespace asa::cuda::emulation
