#include "asa/gemm.h"

#include "pack.h"
#include "product.h"
#include "rows.h"

namespace asa::ASA_ISA {
namespace {

constexpr float kLeastGelu = -0.1701f;  // the function's minimum and its polynomials' error

void add(const Rows& a, const Linear& w, int begin, int end, int rows, float* x, int stride) {
  for_each_tile(
      a, w, begin, end, rows,
      [=](int t, int n, int valid, const Tile& c) {
        for (int r = 0; r < valid; ++r) {
          float* to = x + size_t(t * kRows + r) * stride + n;
          for (int i = 0; i < kPanel; i += kLanes) store(to + i, load(to + i) + load(c[r] + i));
        }
      },
      nothing);
}

void store_columns(const Rows& a, const Linear& w, int begin, int end, int rows, float* x,
                   int stride) {
  for_each_tile(
      a, w, begin, end, rows,
      [=](int t, int n, int valid, const Tile& c) {
        for (int r = 0; r < valid; ++r) {
          __builtin_memcpy(x + size_t(t * kRows + r) * stride + n - begin, c[r], sizeof(c[r]));
        }
      },
      nothing);
}

void gelu_store(const Rows& a, const Linear& w, int rows, float* x, int stride, const float* extra,
                int extra_stride) {
  for_each_tile(
      a, w, rows,
      [=](int t, int n, int valid, const Tile& c) {
        for (int r = 0; r < valid; ++r) {
          const size_t row = size_t(t) * kRows + r;
          for (int i = 0; i < kPanel; i += kLanes) {
            const vf sum = load(c[r] + i);
            vf y = w.precision == Precision::fp32 ? gelu<false>(sum) : gelu<true>(sum);
            if (extra) y += load(extra + row * extra_stride + n + i);
            store(x + row * stride + n + i, y);
          }
        }
      },
      nothing);
}

void gelu_put(const Rows& a, const Linear& w, int rows, const Rows& to, float* scratch) {
  const int chunks = chunks_of(to.precision, to.in);
  for_each_tile(
      a, w, rows,
      [&](int t, int n, int, const Tile& c) {
        const int word = to.precision == Precision::bf16 ? n / 2 : n;
        int32_t* tile = to.words + size_t(t) * chunks * kTileWords +
                        word / kChunkWords * kTileWords + word % kChunkWords;
        for (int r = 0; r < kRows; ++r, tile += kChunkWords) {
          if (to.precision == Precision::bf16) {
            store(tile, to_bf16(gelu<true>(load(c[r])), gelu<true>(load(c[r] + kLanes))));
          } else if (to.precision == Precision::fp32) {
            for (int i = 0; i < kPanel; i += kLanes)
              store(tile + i, bits(gelu<false>(load(c[r] + i))));
          } else {
            float* row = scratch + size_t(t * kRows + r) * kGroup + n % kGroup;
            for (int i = 0; i < kPanel; i += kLanes) store(row + i, gelu<true>(load(c[r] + i)));
          }
        }
      },
      [&](int n) {
        const int end = n + kPanel;
        if (!is_scaled(to.precision) || (end % kGroup && end != w.out)) return;
        const int group = n / kGroup;
        for (int row = 0; row < (rows + kRows - 1) / kRows * kRows; ++row) {
          put_group<true>(to, row, group, scratch + size_t(row) * kGroup, to.in - group * kGroup,
                          kLeastGelu);
        }
      });
}

ASA_INLINE vf silu(vf x) { return x / (exp2<false>(x * -1.44269504f) + 1.0f); }

void gated_put(const Rows& a, const Linear& w, int begin, int end, int rows, const Rows& to,
               float* scratch) {
  const int chunks = chunks_of(to.precision, to.in), tiled = (rows + kRows - 1) / kRows * kRows;
  float* gates = scratch + size_t(tiled) * kGroup;
  for_each_tile(
      a, w, begin, end, rows,
      [&](int t, int n, int, const Tile& c) {
        float* gate = gates + size_t(t) * kRows * kPanel;
        if (n / kPanel % 2 == 0) {
          for (int i = 0; i < kRows * kPanel; i += kLanes)
            store(gate + i, silu(load(&c[0][0] + i)));
          return;
        }
        const int unit = n / (2 * kPanel) * kPanel;
        const int word = to.precision == Precision::bf16 ? unit / 2 : unit;
        int32_t* tile = to.words + size_t(t) * chunks * kTileWords +
                        word / kChunkWords * kTileWords + word % kChunkWords;
        for (int r = 0; r < kRows; ++r, tile += kChunkWords, gate += kPanel) {
          const vf y[kVectors] = {load(gate) * load(c[r]),
                                  load(gate + kLanes) * load(c[r] + kLanes)};
          if (to.precision == Precision::bf16) {
            store(tile, to_bf16(y[0], y[1]));
          } else if (to.precision == Precision::fp32) {
            for (int v = 0; v < kVectors; ++v) store(tile + v * kLanes, bits(y[v]));
          } else {
            float* row = scratch + size_t(t * kRows + r) * kGroup + unit % kGroup;
            for (int v = 0; v < kVectors; ++v) store(row + v * kLanes, y[v]);
          }
        }
      },
      [&](int n) {
        const int units = (n + kPanel) / (2 * kPanel) * kPanel;
        if (!is_scaled(to.precision) || n / kPanel % 2 == 0) return;
        if (units % kGroup && n + kPanel != w.out) return;
        const int group = (units - 1) / kGroup;
        for (int row = 0; row < tiled; ++row) {
          put_group(to, row, group, scratch + size_t(row) * kGroup, to.in - group * kGroup);
        }
      });
}

// Hands out each head's rows in float32, by head, tile and row within it.
template <class Put>
ASA_INLINE void for_each_head(const Rows& a, const Linear& w, int rows, const Attention& to,
                              Put put) {
  for_each_tile(
      a, w, rows,
      [&](int t, int n, int, const Tile& c) {
        float* row = to.scratch + size_t(t) * kRows * kGroup + n % to.head_width;
        for (int r = 0; r < kRows; ++r, row += kGroup) __builtin_memcpy(row, c[r], sizeof(c[r]));
      },
      [&](int n) {
        if ((n + kPanel) % to.head_width) return;
        for (int row = 0; row < (rows + kRows - 1) / kRows * kRows; ++row) {
          put(n / to.head_width, row / kRows, row % kRows, to.scratch + size_t(row) * kGroup);
        }
      });
}

void queries_of_bytes(const Rows& a, const Linear& w, int rows, const Attention& to,
                      int first_tile) {
  for_each_head(a, w, rows, to, [&](int head, int tile, int r, const float* x) {
    const size_t at = size_t(first_tile + tile) * to.heads + head;
    float* scale = to.query_scale + at * 2 * kRows + r;
    int32_t* bytes = to.queries + size_t(first_tile + tile) * to.query_words +
                     (size_t(head) * kRows + r) * kChunkWords;
    quantise_vectors(x, to.head_width, bytes, *scale, scale[kRows]);
  });
}

void queries_of_int16(const Rows& a, const Linear& w, int rows, const Attention& to,
                      int first_tile) {
  const int chunks = chunks_of(Precision::int16, to.head_width), half = 2 * kChunkWords;
  for_each_head(a, w, rows, to, [&](int head, int tile, int r, const float* x) {
    const size_t at = size_t(first_tile + tile) * to.heads + head;
    float* scale = to.query_scale + at * 2 * kRows + r;
    *scale = scale_int16(x, to.head_width);
    int32_t* words = to.queries + size_t(first_tile + tile) * to.query_words +
                     (size_t(head) * chunks * kRows + r) * kChunkWords;
    for (int i = 0; i < to.head_width; i += half, words += kTileWords) {
      store_int16(x + i, to.head_width - i < half ? to.head_width - i : half, *scale, words);
    }
  });
}

void keys_of_int16(const Rows& a, const Linear& w, int rows, const Attention& to, int first_tile) {
  const int count = words_of(Precision::int16, to.head_width);
  for_each_head(a, w, rows, to, [&](int head, int tile, int r, const float* x) {
    const int key = (first_tile + tile) * kRows + r, lane = key % kPanel;
    const size_t panel = size_t(head) * to.key_panels + key / kPanel;
    float* scale = to.key_scale + panel * 2 * kPanel + lane;
    *scale = scale_int16(x, to.head_width);
    int32_t words[kGroup / 2];
    store_int16(x, to.head_width, *scale, words);
    int32_t* word = to.keys + panel * count * kPanel + lane;
    for (int i = 0; i < count; ++i, word += kPanel) *word = words[i];
  });
}

// A key's values have one scale, which attention takes for part of the key's weight.
void values_of_int16(const Rows& a, const Linear& w, int rows, const Attention& to,
                     int first_tile) {
  static_assert(kRows % 2 == 0);
  const int panels = to.head_width / kPanel;
  vi even[kGroup / kLanes];
  for_each_head(a, w, rows, to, [&](int head, int tile, int r, const float* x) {
    const int key = (first_tile + tile) * kRows + r;
    float& scale = to.value_scale[size_t(head) * to.key_panels * kPanel + key];
    scale = scale_int16(x, to.head_width);
    const float inverse = 1.0f / scale;
    for (int i = 0; i < to.head_width; i += kLanes) {
      const vi whole = __builtin_convertvector(round_signed<kMostInt16>(load(x + i) * inverse), vi);
      if (r % 2 == 0) {
        even[i / kLanes] = whole & 0xffff;
      } else {
        const size_t panel = size_t(head) * panels + i / kPanel;
        store(to.values + (panel * to.key_words + key / 2) * kPanel + i % kPanel,
              even[i / kLanes] | (whole << 16));
      }
    }
  });
}

void keys_of_bytes(const Rows& a, const Linear& w, int rows, const Attention& to, int first_tile) {
  const int words = words_of(Precision::int8, to.head_width);
  for_each_head(a, w, rows, to, [&](int head, int tile, int r, const float* x) {
    const int key = (first_tile + tile) * kRows + r, lane = key % kPanel;
    const size_t panel = size_t(head) * to.key_panels + key / kPanel;
    float* scale = to.key_scale + panel * 2 * kPanel + lane;
    int32_t bytes[kChunkWords];
    quantise_signed(x, to.head_width, bytes, *scale, scale[kPanel]);
    int32_t* word = to.keys + panel * words * kPanel + lane;
    for (int i = 0; i < words; ++i, word += kPanel) *word = bytes[i];
  });
}

void queries(const Rows& a, const Linear& w, int rows, const Attention& to, int first_tile) {
  if (to.scores == Precision::int8) return queries_of_bytes(a, w, rows, to, first_tile);
  if (to.scores == Precision::int16) return queries_of_int16(a, w, rows, to, first_tile);
  const int chunks = chunks_of(to.precision, to.head_width);
  for_each_tile(
      a, w, rows,
      [&](int t, int n, int, const Tile& c) {
        const int head = n / to.head_width, column = n % to.head_width;
        const int word = to.precision == Precision::bf16 ? column / 2 : column;
        int32_t* tile = to.queries + size_t(first_tile + t) * to.query_words +
                        (size_t(head) * chunks + word / kChunkWords) * kTileWords +
                        word % kChunkWords;
        for (int r = 0; r < kRows; ++r, tile += kChunkWords) {
          if (to.precision == Precision::bf16) {
            store(tile, to_bf16(load(c[r]), load(c[r] + kLanes)));
          } else {
            for (int i = 0; i < kPanel; i += kLanes) store(tile + i, bits(load(c[r] + i)));
          }
        }
      },
      nothing);
}

void keys(const Rows& a, const Linear& w, int rows, const Attention& to, int first_tile) {
  if (to.scores == Precision::int8) return keys_of_bytes(a, w, rows, to, first_tile);
  if (to.scores == Precision::int16) return keys_of_int16(a, w, rows, to, first_tile);
  const int words = words_of(to.precision, to.head_width);
  for_each_tile(
      a, w, rows,
      [&](int t, int n, int, const Tile& c) {
        const int head = n / to.head_width, column = n % to.head_width;
        const int first = to.precision == Precision::bf16 ? column / 2 : column;
        const bool paired = to.precision == Precision::bf16;
        // Turns kLanes words of kLanes keys into the lanes of kLanes words.
        for (int r0 = 0; r0 < kRows; r0 += kLanes) {
          const int count = kRows - r0 < kLanes ? kRows - r0 : kLanes;
          const int key = (first_tile + t) * kRows + r0, lane = key % kPanel;
          const int before = kPanel - lane < count ? kPanel - lane : count;
          for (int i0 = 0; i0 < (paired ? kLanes : kPanel); i0 += kLanes) {
            vf block[kLanes];
            for (int r = 0; r < kLanes; ++r) {
              const float* row = c[r0 + (r < count ? r : 0)];
              block[r] =
                  paired ? from_bits(to_bf16(load(row), load(row + kLanes))) : load(row + i0);
            }
            transpose(block);
            int32_t* panel =
                to.keys +
                ((size_t(head) * to.key_panels + key / kPanel) * words + first + i0) * kPanel;
            int32_t* next = panel + size_t(words) * kPanel;
            for (int i = 0; i < kLanes; ++i, panel += kPanel, next += kPanel) {
              const float* lanes = (const float*)&block[i];
              __builtin_memcpy(panel + lane, lanes, sizeof(float) * before);
              if (before < count) {
                __builtin_memcpy(next, lanes + before, sizeof(float) * (count - before));
              }
            }
          }
        }
      },
      nothing);
}

void values(const Rows& a, const Linear& w, int rows, const Attention& to, int first_tile) {
  if (to.precision == Precision::int16) return values_of_int16(a, w, rows, to, first_tile);
  const int panels = to.head_width / kPanel;
  for_each_tile(
      a, w, rows,
      [&](int t, int n, int, const Tile& c) {
        const int head = n / to.head_width, panel = n % to.head_width / kPanel;
        const int key = (first_tile + t) * kRows;
        int32_t* base = to.values + (size_t(head) * panels + panel) * to.key_words * kPanel;
        if (to.precision == Precision::bf16) {
          static_assert(kRows % 2 == 0);
          for (int r = 0; r < kRows; r += 2) {
            int32_t* word = base + size_t(key + r) / 2 * kPanel;
            for (int i = 0; i < kPanel; i += kLanes) {
              store(word + i, pair_bf16(load(c[r] + i), load(c[r + 1] + i)));
            }
          }
        } else {
          for (int r = 0; r < kRows; ++r) {
            __builtin_memcpy(base + size_t(key + r) * kPanel, c[r], sizeof(c[r]));
          }
        }
      },
      nothing);
}

void put_rows(const float* x, int stride, int rows, const Rows& to) {
  for (int row = 0; row < rows; ++row) put_row(to, x + size_t(row) * stride, row);
}

#if defined(ASA_YMM)
constexpr bool kWords16 = true;
#else
constexpr bool kWords16 = false;
#endif
#if defined(ASA_ISA_AVX512_BF16) || defined(ASA_ISA_NEON_BF16)
constexpr bool kBf16 = true;
#else
constexpr bool kBf16 = false;
#endif

}  // namespace

GemmKernels gemm_kernels() {
  return {.geometry = {.rows = kRows, .panel = kPanel},
          .bf16 = kBf16,
          .words16 = kWords16,
          .pack = pack,
          .pack_steps = pack_steps,
          .put_rows = put_rows,
          .add = add,
          .store = store_columns,
          .gelu_store = gelu_store,
          .gelu_put = gelu_put,
          .gated_put = gated_put,
          .queries = queries,
          .keys = keys,
          .values = values};
}

}  // namespace asa::ASA_ISA
