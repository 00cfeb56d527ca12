// y = x W^T + b with what follows it fused: no intermediate goes through memory twice.
#pragma once

#include "asa/attention.h"
#include "asa/linear.h"

namespace asa {

// What the kernels of one instruction set lay out: rows of a tile, outputs of a panel.
struct Geometry {
  int rows;
  int panel;
};

// Kernels over packed matrices. Rows past `rows` in the last tile are computed and thrown away.
struct GemmKernels {
  Geometry geometry;
  bool bf16;     // there are products of bfloat16, not only floats that stand for them
  bool words16;  // there are none, but products of 16-bit integers beat those of float32

  // Packs w [out][in] and bias [out] (or null) into `to`, whose sizes and buffers are set.
  void (*pack)(const float* w, const float* bias, const Linear& to);

  // Packs steps [out][in] of 8 bits, each of -127 to 127, of which kGroup inputs of an output share
  // a scale [out][groups].
  void (*pack_steps)(const int8_t* steps, const float* scale, const float* bias, const Linear& to);

  // Packs float rows, `stride` floats apart (rows may overlap); reads round_up(in, kGroup) floats.
  void (*put_rows)(const float* x, int stride, int rows, const Rows& to);

  // x[row][n] += y[row][n] for n in [begin, end), both multiples of the panel.
  void (*add)(const Rows& a, const Linear& w, int begin, int end, int rows, float* x, int stride);

  // x[row][n - begin] = y[row][n] for n in [begin, end), both multiples of the panel.
  void (*store)(const Rows& a, const Linear& w, int begin, int end, int rows, float* x, int stride);

  // x[row][n] = gelu(y[row][n]) (+ extra[row][n], if not null).
  void (*gelu_store)(const Rows& a, const Linear& w, int rows, float* x, int stride,
                     const float* extra, int extra_stride);

  // Packs gelu(y) as the next GEMM's input; `scratch` holds tiles * rows * kGroup floats.
  void (*gelu_put)(const Rows& a, const Linear& w, int rows, const Rows& to, float* scratch);

  // Packs silu(g) u as the next GEMM's input; of w's panels in [begin, end), multiples of 2 kGroup
  // or the end, every even one gives g and the one after it u. `scratch` holds tiles * rows *
  // (kGroup + panel) floats.
  void (*gated_put)(const Rows& a, const Linear& w, int begin, int end, int rows, const Rows& to,
                    float* scratch);

  // Packs y where attention wants it; first_tile is the tile of row 0 within the sequence.
  void (*queries)(const Rows& a, const Linear& w, int rows, const Attention& to, int first_tile);
  void (*keys)(const Rows& a, const Linear& w, int rows, const Attention& to, int first_tile);
  void (*values)(const Rows& a, const Linear& w, int rows, const Attention& to, int first_tile);
};

}  // namespace asa
