// Rows are packed as the encoder packs them, by a product, here with the identity: a float32
// product with ones and zeros is exact.
#include "asa/attend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "asa/buffer.h"
#include "asa/isa.h"

namespace asa {
namespace {

constexpr int kMostFrames = 1 << 20, kMostWidth = 8192, kMostHeads = 256;

// A multiple of the identity, packed.
struct Scaled {
  Scaled(const GemmKernels& gemm, int width, float factor)
      : panels(static_cast<std::size_t>(width) * width), bias(width) {
    std::vector<float> weight(static_cast<std::size_t>(width) * width);
    for (int i = 0; i < width; ++i) weight[static_cast<std::size_t>(i) * width + i] = factor;
    linear.in = linear.out = width;
    linear.panels = panels.ints();
    linear.bias = bias.floats();
    gemm.pack(weight.data(), nullptr, linear);
  }

  Linear linear;
  Buffer panels, bias;
};

void check(Precision precision, const AttendShape& s) {
  const auto in = [](int value, int most) { return value >= 1 && value <= most; };
  if (precision == Precision::int8) throw std::invalid_argument("attention has no int8");
  if (!in(s.frames, kMostFrames) || !in(s.width, kMostWidth) || !in(s.heads, kMostHeads) ||
      s.width % s.heads || !in(s.length, s.frames) || s.reach < 0) {
    throw std::invalid_argument("not the shape of attention");
  }
}

}  // namespace

void attend(Precision precision, const AttendShape& shape, const float* queries, const float* keys,
            const float* values, float* out) {
  check(precision, shape);
  const Kernels& k = kernels();
  const int rows = k.gemm.geometry.rows, panel = k.gemm.geometry.panel;
  const int real = shape.width / shape.heads, head_width = round_up(real, panel);
  const int tiles = (shape.frames + rows - 1) / rows;
  const int panels = (tiles * rows + panel - 1) / panel;
  const int reach = shape.reach >= shape.frames ? kUnlimited : shape.reach;
  const std::size_t words = words_of(precision, head_width);
  // Queries are padded to whole chunks, and the next tile begins there.
  Buffer packed_queries(static_cast<std::size_t>(tiles) * rows * chunks_of(precision, head_width) *
                        kChunkWords);
  Buffer packed_keys(static_cast<std::size_t>(panels) * panel * words);
  Buffer packed_values(static_cast<std::size_t>(panels) * panel * words);
  const Attention view = {.precision = precision,
                          .heads = 1,
                          .head_width = head_width,
                          .length = shape.length,
                          .queries = packed_queries.ints(),
                          .keys = packed_keys.ints(),
                          .values = packed_values.ints(),
                          .key_panels = panels,
                          .key_words = panels * panel / inputs_per_word(precision),
                          .query_words = rows * chunks_of(precision, head_width) * kChunkWords,
                          .behind = reach,
                          .ahead = reach};
  // The softmax is taken to base 2.
  const float factor = 1.44269504089f / std::sqrt(static_cast<float>(real));
  const Scaled scale(k.gemm, head_width, factor), same(k.gemm, head_width, 1.0f);
  const int stride = round_up(head_width, kGroup);
  Buffer tile(static_cast<std::size_t>(rows) * stride);
  Buffer input(static_cast<std::size_t>(rows) * chunks_of(Precision::fp32, head_width) *
               kChunkWords);
  const Rows packed = {Precision::fp32, head_width, input.ints(), nullptr};

  for (int head = 0; head < shape.heads; ++head) {
    const auto at = [&](int row) {
      return static_cast<std::size_t>(row) * shape.width + head * real;
    };
    for (int t = 0; t < tiles; ++t) {
      const int first = t * rows, valid = std::min(rows, shape.frames - first);
      const auto take = [&](const float* from) {
        for (int r = 0; r < valid; ++r) {
          std::memcpy(tile.floats() + static_cast<std::size_t>(r) * stride, from + at(first + r),
                      sizeof(float) * real);
        }
        k.gemm.put_rows(tile.floats(), stride, valid, packed);
      };
      take(queries);
      k.gemm.queries(packed, scale.linear, valid, view, t);
      take(keys);
      k.gemm.keys(packed, same.linear, valid, view, t);
      take(values);
      k.gemm.values(packed, same.linear, valid, view, t);
    }
    for (int t = 0; t < tiles; ++t) {
      const int first = t * rows, valid = std::min(rows, shape.frames - first);
      const auto sees_keys = [&](int row) { return row - reach < shape.length; };
      if (sees_keys(first)) k.attention.attend(view, t, 0, tile.floats(), stride);
      for (int r = 0; r < valid; ++r) {
        float* to = out + at(first + r);
        if (sees_keys(first + r)) {
          std::memcpy(to, tile.floats() + static_cast<std::size_t>(r) * stride,
                      sizeof(float) * real);
        } else {
          std::memset(to, 0, sizeof(float) * real);
        }
      }
    }
    // What attention left in the padding of the tile must not reach the next head's rows.
    std::memset(tile.floats(), 0, sizeof(float) * rows * stride);
  }
}

}  // namespace asa
