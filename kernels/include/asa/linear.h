// Packed matrices: what y = x W^T + b needs so that its inner loop only streams.
//
// Both sides are made of 32-bit words along the input dimension: one float, two bfloat16, two
// integers of 16 bits or four bytes. W is kept in panels of nr outputs, [out / nr][words][nr].
// Activations are kept in tiles of mr rows, cut into chunks of kChunkWords words,
// [tile][chunk][mr][kChunkWords].
#pragma once

#include <cstddef>
#include <cstdint>

namespace asa {

enum class Precision { fp32, bf16, int8, int16 };

inline constexpr int kChunkWords = 32;
inline constexpr int kGroup = 4 * kChunkWords;  // int8, int16: inputs that share one scale
// int16: the largest size of an integer, so that kGroup products of two fit 32 bits.
inline constexpr int kMostInt16 = 4095;

inline constexpr int inputs_per_word(Precision precision) {
  return precision == Precision::fp32 ? 1 : precision == Precision::int8 ? 4 : 2;
}
inline constexpr int words_of(Precision precision, int inputs) {
  return (inputs + inputs_per_word(precision) - 1) / inputs_per_word(precision);
}
inline constexpr int chunks_of(Precision precision, int inputs) {
  return (words_of(precision, inputs) + kChunkWords - 1) / kChunkWords;
}
// Whether factors are integers, kGroup of which share a scale.
inline constexpr bool is_scaled(Precision precision) {
  return precision == Precision::int8 || precision == Precision::int16;
}
inline constexpr int groups_of(int inputs) { return (inputs + kGroup - 1) / kGroup; }
inline constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

// Weights of one linear layer. Int8: signed weights, one scale an output and group; unsigned
// inputs, x = scale (byte - zero), one scale and zero a row and group. Accumulators are int32 over
// one group (at most 128 * 255 * 127, no overflow) and float over groups. Int16: the same, both
// sides signed and of at most kMostInt16, without zeros.
struct Linear {
  Precision precision = Precision::fp32;
  int in = 0;
  int out = 0;                // a multiple of nr; outputs past the real ones are zero
  int32_t* panels = nullptr;  // [out / nr][words][nr]
  float* bias = nullptr;      // [out]
  float* scale = nullptr;     // int8, int16: [groups][out]
  float* sum = nullptr;       // int8: [groups][out], sums of the quantised weights

  // int8: of each two weights that multiply a word's lower or upper half neither the positive nor
  // the negative ones add up to more than 128, so that times unsigned bytes they fit 16 bits. So
  // packs `pack` where it helps, at the cost of coarser steps. If not, sums are as exact, but
  // slower.
  bool paired = false;
};

// Rows of activations, as a GEMM reads them.
struct Rows {
  Precision precision;
  int in;
  int32_t* words;  // [tiles][chunks][mr][kChunkWords]
  float* scale;    // int8, int16: [tiles][groups][2][mr], scales and zeros
};

}  // namespace asa
