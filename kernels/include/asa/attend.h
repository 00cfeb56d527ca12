// Attention over plain matrices: packed, attended and unpacked, for those without an encoder.
#pragma once

#include "asa/attention.h"

namespace asa {

struct AttendShape {
  int frames;              // queries, and rows of keys and values
  int heads;               // they divide `width`
  int width;               // of a row, all heads together
  int length;              // keys that count, the first ones; 1 to `frames`
  int reach = kUnlimited;  // a query attends keys at most so far from it, on either side
};

// out [frames][width] = softmax(q k^T / sqrt(width of a head)) v, head by head, over the keys that
// count and are within reach; a query with none gives zeros. Throws std::invalid_argument for
// int8, or for a shape that is none.
void attend(Precision precision, const AttendShape& shape, const float* queries, const float* keys,
            const float* values, float* out);

}  // namespace asa
