// Attention within every window of a ragged batch: no padding, scores never in memory.
#pragma once

#include "asa/cuda/ragged.h"

namespace asa::cuda {

// Widest head the kernel is compiled for; Whisper's are all 64.
inline constexpr int kMaxHeadWidth = 64;

// What a head's queries, keys and values are padded to, with zeros: 32 or 64.
inline constexpr int padded_head(int width) { return width <= 32 ? 32 : 64; }

// Queries, keys and values of a row lie side by side, [3][heads][head_width], in the format, and
// queries carry the factor log2(e) / sqrt(width of a head), so that the softmax is a power of two.
struct Attention {
  const void* rows;
  int stride;  // elements
  int heads, head_width;
  void* out;  // [rows][heads][head_width]
  int out_stride;
};

// A query's softmax runs over its own window's keys, 64 at a time from the first one, with the
// maximum so far; its bits depend on nothing else in the batch.
void attend(Stream& stream, Format format, const Attention& attention, const Ragged& ragged);

}  // namespace asa::cuda
