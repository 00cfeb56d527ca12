// Attention over one sequence, full or windowed, keys in blocks, softmax never materialised.
#pragma once

#include <cstdint>

#include "asa/linear.h"

namespace asa {

inline constexpr int kUnlimited = 1 << 30;

// One sequence's queries, keys and values, packed by the GEMMs that make them. Queries carry the
// factor log2(e) / sqrt(head width), so that the softmax is a power of two.
struct Attention {
  Precision precision;  // fp32, bf16 or int16
  int heads;
  int head_width;           // a multiple of the panel; what pads a head is zero
  int length;               // keys that count
  int32_t* queries;         // [tiles][heads][chunks][rows][kChunkWords], tiles query_words apart
  int32_t* keys;            // [heads][key_panels][words of a head][panel]
  int32_t* values;          // [heads][head_width / panel][key_words][panel]
  int key_panels;           // room for keys, in panels
  int key_words;            // room for keys, in words
  int query_words;          // room for a tile's queries, in words
  int behind = kUnlimited;  // a query attends keys at most so far before it ...
  int ahead = kUnlimited;   // ... and after it

  // Where the rows of a tile stand, [rows] in ascending order, where they are not the queries tile
  // * rows and so on: several heads may read the same keys, and sequences go on where they stopped.
  const int32_t* positions = nullptr;

  // Precision::int8: queries are bytes with a scale and zero a row, keys signed bytes with a scale
  // each, and values are as ever. Precision::int16: all three are signed, and have a scale a row,
  // key and head's value. Heads are kGroup wide at most.
  Precision scores = precision;
  float* query_scale = nullptr;  // [tiles][heads][2][rows], scales and zeros
  float* key_scale = nullptr;    // [heads][key_panels][2][panel], scales and scaled sums of bytes
  float* value_scale = nullptr;  // int16: [heads][key_panels][panel]
  float* scratch = nullptr;      // for those who make these: kGroup floats a row
};

struct AttentionKernels {
  bool bytes;  // scores of bytes are worth their while

  // Writes softmax(q k^T) v of one tile of queries and one head: [rows][head_width]. Work grows
  // with the keys within reach, not with the length.
  void (*attend)(const Attention& a, int tile, int head, float* out, int stride);
};

}  // namespace asa
