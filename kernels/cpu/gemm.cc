#include "asa/gemm.h"

#include "rows.h"

namespace asa::ASA_ISA {
namespace {

constexpr float kLowest = 1e-30f;
constexpr float kLeastGelu = -0.1701f;  // the function's minimum and its polynomials' error

using Tile = float[kRows][kPanel];

// c = the first R rows of a tile times a panel.
template <class Op, int R>
ASA_INLINE void compute(const int32_t* a, const float*, const int32_t* b, const Linear& w, int n,
                        Tile& c) {
  vf acc[R][kVectors];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) acc[r][v] = load(w.bias + n + v * kLanes);
  }
  multiply<Op>(a, b, words_of(Op::precision, w.in), acc);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(c[r] + v * kLanes, acc[r][v]);
  }
}

template <class Op, int R>
  requires(Op::precision == Precision::int8)
ASA_INLINE void compute(const int32_t* a, const float* a_scale, const int32_t* b, const Linear& w,
                        int n, Tile& c) {
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) store(c[r] + v * kLanes, load(w.bias + n + v * kLanes));
  }
  int words = words_of(Precision::int8, w.in);
  for (int group = 0; words > 0; ++group, words -= kChunkWords) {
    vi acc[R][kVectors];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[r][v] = vi{};
    }
    multiply<Int8>(a, b, words < kChunkWords ? words : kChunkWords, acc);
    const float* scale = w.scale + group * w.out + n;
    const float* sum = w.sum + group * w.out + n;
    vf column[kVectors], total[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      column[v] = load(scale + v * kLanes);
      total[v] = load(sum + v * kLanes);
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vf row = splat(a_scale[r]), zero = splat(a_scale[kRows + r] - Int8::kOffset);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        float* to = c[r] + v * kLanes;
        store(to, load(to) + (to_float(acc[r][v]) - zero * total[v]) * (row * column[v]));
      }
    }
    a += kTileWords;
    b += kChunkWords * kPanel;
    a_scale += 2 * kRows;
  }
}

// The same for a tile that is not full: a third of it, or two, the other rows being zero.
template <class Op>
__attribute__((noinline)) void compute_some(const int32_t* a, const float* a_scale,
                                            const int32_t* b, const Linear& w, int n, int rows,
                                            Tile& c) {
  constexpr int third = kRows / 3;
  if (rows > 2 * third) return compute<Op, kRows>(a, a_scale, b, w, n, c);
  __builtin_memset(c, 0, sizeof(c));
  if (rows > third) return compute<Op, 2 * third>(a, a_scale, b, w, n, c);
  compute<Op, third>(a, a_scale, b, w, n, c);
}

template <class Op>
ASA_INLINE void compute_tile(const int32_t* a, const float* a_scale, const int32_t* b,
                             const Linear& w, int n, int rows, Tile& c) {
  if (rows == kRows) return compute<Op, kRows>(a, a_scale, b, w, n, c);
  compute_some<Op>(a, a_scale, b, w, n, rows, c);
}

// Panels outside, tiles inside: a panel stays in the first-level cache for all tiles.
// done(tile, n, valid rows, results) takes each tile; after(n) closes a panel.
template <class Done, class After>
ASA_INLINE void for_each_tile(const Rows& a, const Linear& w, int rows, Done done, After after) {
  alignas(64) Tile c;
  const int words = words_of(w.precision, w.in);
  const int chunks = chunks_of(w.precision, w.in);
  for (int n = 0; n < w.out; n += kPanel) {
    const int32_t* panel = w.panels + size_t(n) * words;
    for (int t = 0; t * kRows < rows; ++t) {
      const int valid = rows - t * kRows < kRows ? rows - t * kRows : kRows;
      const int32_t* tile = a.words + size_t(t) * chunks * kTileWords;
      if (w.precision == Precision::bf16) {
        compute_tile<Bf16>(tile, nullptr, panel, w, n, valid, c);
      } else if (w.precision == Precision::int8) {
        compute_tile<Int8>(tile, a.scale + size_t(t) * chunks * 2 * kRows, panel, w, n, valid, c);
      } else {
        compute_tile<Fp32>(tile, nullptr, panel, w, n, valid, c);
      }
      done(t, n, valid, c);
    }
    after(n);
  }
}

ASA_INLINE void nothing(int) {}

void add(const Rows& a, const Linear& w, int rows, float* x, int stride) {
  for_each_tile(
      a, w, rows,
      [=](int t, int n, int valid, const Tile& c) {
        for (int r = 0; r < valid; ++r) {
          float* to = x + size_t(t * kRows + r) * stride + n;
          for (int i = 0; i < kPanel; i += kLanes) store(to + i, load(to + i) + load(c[r] + i));
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
        if (to.precision != Precision::int8 || (end % kGroup && end != w.out)) return;
        const int group = n / kGroup;
        for (int row = 0; row < (rows + kRows - 1) / kRows * kRows; ++row) {
          const size_t chunk = size_t(row / kRows) * chunks + group;
          float* scale = to.scale + chunk * 2 * kRows + row % kRows;
          quantise<true>(scratch + size_t(row) * kGroup, to.in - group * kGroup,
                         to.words + (chunk * kRows + row % kRows) * kChunkWords, scale,
                         scale + kRows, kLeastGelu);
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
    quantise_vectors(x, to.head_width, to.queries + at * kTileWords + r * kChunkWords, *scale,
                     scale[kRows]);
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
  const int chunks = chunks_of(to.precision, to.head_width);
  for_each_tile(
      a, w, rows,
      [&](int t, int n, int, const Tile& c) {
        const int head = n / to.head_width, column = n % to.head_width;
        const int word = to.precision == Precision::bf16 ? column / 2 : column;
        int32_t* tile = to.queries +
                        (size_t(first_tile + t) * to.heads + head) * chunks * kTileWords +
                        word / kChunkWords * kTileWords + word % kChunkWords;
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
  const int chunks = chunks_of(to.precision, to.in);
  for (int row = 0; row < rows; ++row) {
    const size_t tile = row / kRows;
    put_row(to.precision, x + size_t(row) * stride, to.in, row % kRows,
            to.words + tile * chunks * kTileWords,
            to.precision == Precision::int8 ? to.scale + tile * chunks * 2 * kRows : nullptr);
  }
}

uint16_t bf16_of(float x) {
  uint32_t b;
  __builtin_memcpy(&b, &x, sizeof(b));
  return uint16_t((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}

// The scale of kGroup weights that leaves the least squared error: clipping the largest ones a
// little makes the steps of all others finer.
float best_scale(const float* w, float top) {
  constexpr int steps = 8;
  float best = 0.0f, least = 0.0f;
  for (int step = 0; step < steps; ++step) {
    const float scale = top * (1.0f - 0.03f * float(step)) / 127.0f, inverse = 1.0f / scale;
    vf squares = splat(0.0f);
    for (int k = 0; k < kGroup; k += kLanes) {
      const vf off = round_signed(load(w + k) * inverse) * scale - load(w + k);
      squares += off * off;
    }
    const float error = sum(squares);
    if (step == 0 || error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
}

void pack_int8(const float* w, const Linear& to, int n) {
  const int words = words_of(Precision::int8, to.in);
  int8_t* panel = (int8_t*)(to.panels + size_t(n / kPanel) * words * kPanel) + n % kPanel * 4;
  for (int first = 0, group = 0; first < to.in; first += kGroup, ++group) {
    const int count = to.in - first < kGroup ? to.in - first : kGroup;
    float own[kGroup] = {}, whole[kGroup];
    __builtin_memcpy(own, w + first, sizeof(float) * count);
    vf top = splat(kLowest);
    for (int k = 0; k < kGroup; k += kLanes) top = max(top, max(load(own + k), -load(own + k)));
    const float scale = best_scale(own, highest(top)), inverse = 1.0f / scale;
    vf total = splat(0.0f);
    for (int k = 0; k < kGroup; k += kLanes) {
      const vf q = round_signed(load(own + k) * inverse);
      store(whole + k, q);
      total += q;
    }
    for (int k = 0; k < count; ++k) {
      panel[(first + k) / 4 * kPanel * 4 + k % 4] = int8_t(whole[k]);
    }
    to.scale[group * to.out + n] = scale;
    to.sum[group * to.out + n] = sum(total);
  }
}

void pack(const float* w, const float* bias, const Linear& to) {
  const int words = words_of(to.precision, to.in);
  __builtin_memset(to.panels, 0, sizeof(int32_t) * words * size_t(to.out));
  for (int n = 0; n < to.out; ++n, w += to.in) {
    to.bias[n] = bias ? bias[n] : 0.0f;
    if (to.precision == Precision::int8) {
      pack_int8(w, to, n);
      continue;
    }
    int32_t* lane = to.panels + size_t(n / kPanel) * words * kPanel + n % kPanel;
    for (int k = 0; k < to.in; ++k) {
      if (to.precision == Precision::fp32) {
        __builtin_memcpy(lane + k * kPanel, w + k, sizeof(float));
      } else {
        ((uint16_t*)(lane + k / 2 * kPanel))[k % 2] = bf16_of(w[k]);
      }
    }
  }
}

}  // namespace

GemmKernels gemm_kernels() {
  return {.geometry = {.rows = kRows, .panel = kPanel},
          .pack = pack,
          .put_rows = put_rows,
          .add = add,
          .gelu_store = gelu_store,
          .gelu_put = gelu_put,
          .queries = queries,
          .keys = keys,
          .values = values};
}

}  // namespace asa::ASA_ISA
