// Packed matrices: what y = x W^T + b needs so that its inner loop only streams.
//
// Both sides are made of 32-bit words along the input dimension: one float, two bfloat16 or four
// bytes. W is kept in panels of nr outputs, [out / nr][words][nr]. Activations are kept in tiles of
// mr rows, cut into chunks of kChunkWords words, [tile][chunk][mr][kChunkWords].
#pragma once

#include <cstddef>
#include <cstdint>

namespace asa {

enum class Precision { fp32, bf16, int8 };

inline constexpr int kChunkWords = 32;
inline constexpr int kGroup = 4 * kChunkWords;  // int8: inputs that share one scale

inline constexpr int inputs_per_word(Precision precision) {
  return precision == Precision::fp32 ? 1 : precision == Precision::bf16 ? 2 : 4;
}
inline constexpr int words_of(Precision precision, int inputs) {
  return (inputs + inputs_per_word(precision) - 1) / inputs_per_word(precision);
}
inline constexpr int chunks_of(Precision precision, int inputs) {
  return (words_of(precision, inputs) + kChunkWords - 1) / kChunkWords;
}
inline constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

// Weights of one linear layer. Int8: signed weights, one scale an output and group; unsigned
// inputs, x = scale (byte - zero), one scale and zero a row and group. Accumulators are int32 over
// one group (at most 128 * 255 * 127, no overflow) and float over groups.
struct Linear {
  Precision precision = Precision::fp32;
  int in = 0;
  int out = 0;                // a multiple of nr; outputs past the real ones are zero
  int32_t* panels = nullptr;  // [out / nr][words][nr]
  float* bias = nullptr;      // [out]
  float* scale = nullptr;     // int8: [groups][out]
  float* sum = nullptr;       // int8: [groups][out], sums of the quantised weights
};

// Rows of activations, as a GEMM reads them.
struct Rows {
  Precision precision;
  int in;
  int32_t* words;  // [tiles][chunks][mr][kChunkWords]
  float* scale;    // int8: [tiles][chunks][2][mr], scales and zeros
};

}  // namespace asa
