// y = x W^T + b on tensor cores, with what follows it in the same launch: GELU, the residual
// stream, positions. A row's sum runs over k in one order whatever the tile, so its bits depend on
// nothing else in the batch.
#pragma once

#include "asa/cuda/ragged.h"

namespace asa::cuda {

// Factors are of the format, everything else float32. `stride`s are in elements, multiples of 8.
struct Gemm {
  const void* rows;
  int stride;
  const int* source;  // row r is row source[r] of `rows`; negative: the result is zero; null: row r
  const void* weight;  // [out][in]
  const float* bias;   // [out]
  int in, out;         // multiples of 32 and of 8
  const int* count;    // rows, in the GPU's memory
  int room;            // at most so many
};

// out[r] = y[r], or gelu(y[r]), in the format.
void gemm_store(Stream& stream, Format format, const Gemm& gemm, bool gelu, void* out, int stride);

// x[r] += y[r].
void gemm_add(Stream& stream, Format format, const Gemm& gemm, float* x, int stride);

// x[r] = gelu(y[r]) + positions[position[r]]; positions are [][out].
void gemm_place(Stream& stream, Format format, const Gemm& gemm, const float* positions,
                const int* position, float* x, int stride);

}  // namespace asa::cuda
