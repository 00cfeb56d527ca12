// All of a model's memory on the GPU, and how its matrices are padded.
#pragma once

#include <vector>

#include "asa/cuda/attention.h"
#include "asa/cuda/log_mel.h"
#include "asa/cuda/model.h"
#include "asa/cuda/pool_head.h"
#include "device.h"

namespace asa::cuda {

// A shape with its padded sizes, in elements.
struct Padded {
  explicit Padded(const ModelShape& shape);  // throws std::invalid_argument

  int mels, width, inner;  // of rows: multiples of 32, 64 and 64
  int head, all;           // of one head, of all heads together
};

struct LayerBuffers {
  Memory norm1[2], norm2[2];            // gamma, beta
  Memory qkv, qkv_bias, out, out_bias;  // [3 all][width], [width][all]
  Memory fc1, fc1_bias, fc2, fc2_bias;
};

// How many rows, strips and so on a batch of such limits can have.
struct Capacity {
  explicit Capacity(const Limits& limits);
  int windows, rows, mel_frames, strips, tiles;
};

// The tables of Ragged and GEMMs, one block of integers that is copied with every batch.
struct TableLayout {
  explicit TableLayout(const Capacity& capacity);
  enum Count { rows, padded_mels, strips, tiles, summed, kCounts };
  std::size_t strip, tile, starts, mel_frames, mel_starts, input_starts, conv1_source, conv2_source,
      position, end;
};

struct Buffers {
  // Takes the memory, or only counts it.
  Buffers(const ModelShape& shape, const Limits& limits, bool take);

  std::size_t bytes = 0;
  Padded padded;
  Capacity capacity;
  TableLayout layout;

  Memory mel_tables, conv1, conv1_bias, conv2, conv2_bias, positions, final_norm[2];
  std::vector<LayerBuffers> layers;
  std::vector<Memory> head;  // in HeadWeights' order
  Memory attention_weight, attention_bias;

  Memory tables, input, power, top, mel, conv, x, normal, qkv, context, hidden, mixed;
  Memory partial, arrived, stats, sums, scratch, scores, prior;
  Memory host_tables, host_input, host_sums, host_stats, host_scores, host_prior;
};

// Rows and columns of HeadWeights' tensors, in order; vectors have one row.
struct HeadTensor {
  const float* HeadWeights::* member;
  int rows, columns;
};
std::vector<HeadTensor> head_tensors(const HeadShape& shape);

// Writes a batch's tables and returns its rows. Throws std::invalid_argument for a batch that is
// beyond the limits, or none.
int tabulate(const ModelShape& shape, const Limits& limits, const TableLayout& layout,
             const Batch& batch, int* tables);

// Most samples or log-mel numbers that a batch of such limits can have.
std::size_t input_floats(const ModelShape& shape, const Capacity& capacity);

}  // namespace asa::cuda
