// Rows times a packed matrix, tile by tile, whatever is then done with the results.
#pragma once

#include "tile.h"

namespace asa::ASA_ISA {

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
  requires(is_scaled(Op::precision))
ASA_INLINE void compute(const int32_t* a, const float* a_scale, const int32_t* b, const Linear& w,
                        int n, Tile& c) {
  constexpr int kGroupWords = words_of(Op::precision, kGroup);
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) store(c[r] + v * kLanes, load(w.bias + n + v * kLanes));
  }
  int words = words_of(Op::precision, w.in);
  for (int group = 0; words > 0; ++group, words -= kGroupWords) {
    vi acc[R][kVectors];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[r][v] = vi{};
    }
    multiply<Op>(a, b, words < kGroupWords ? words : kGroupWords, acc);
    const float* scale = w.scale + group * w.out + n;
    vf column[kVectors], total[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      column[v] = load(scale + v * kLanes);
      if constexpr (Op::precision == Precision::int8) {
        total[v] = load(w.sum + group * w.out + n + v * kLanes);
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vf row = splat(a_scale[r]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        float* to = c[r] + v * kLanes;
        vf sum = Op::total(acc[r][v]);
        if constexpr (Op::precision == Precision::int8) {
          sum -= splat(a_scale[kRows + r] - Op::kOffset) * total[v];
        }
        store(to, load(to) + sum * (row * column[v]));
      }
    }
    a += kGroupWords / kChunkWords * kTileWords;
    b += kGroupWords * kPanel;
    a_scale += 2 * kRows;
  }
}

// The same for a tile that is not full: a part of it, or two, the other rows being zero.
template <class Op>
__attribute__((noinline)) void compute_some(const int32_t* a, const float* a_scale,
                                            const int32_t* b, const Linear& w, int n, int rows,
                                            Tile& c) {
  constexpr int part = kRows / kParts;
  if (rows > (kParts - 1) * part) return compute<Op, kRows>(a, a_scale, b, w, n, c);
  __builtin_memset(c, 0, sizeof(c));
  // Tile registers sum bfloat16 in another order, and a row's sum hangs on no other row.
  if constexpr (kBlock < part && Op::precision != Precision::bf16) {
    if (rows <= kBlock) return compute<Op, kBlock>(a, a_scale, b, w, n, c);
  }
  if (rows > part) return compute<Op, (kParts - 1) * part>(a, a_scale, b, w, n, c);
  compute<Op, part>(a, a_scale, b, w, n, c);
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
ASA_INLINE void for_each_tile(const Rows& a, const Linear& w, int begin, int end, int rows,
                              Done done, After after) {
  const TileRegisters held;
  alignas(64) Tile c;
  const int words = words_of(w.precision, w.in);
  const int chunks = chunks_of(w.precision, w.in), groups = groups_of(w.in);
  for (int n = begin; n < end; n += kPanel) {
    const int32_t* panel = w.panels + size_t(n) * words;
    for (int t = 0; t * kRows < rows; ++t) {
      const int valid = rows - t * kRows < kRows ? rows - t * kRows : kRows;
      const int32_t* tile = a.words + size_t(t) * chunks * kTileWords;
      if (w.precision == Precision::bf16) {
        compute_tile<Bf16>(tile, nullptr, panel, w, n, valid, c);
      } else if (w.precision == Precision::int8) {
        const float* scale = a.scale + size_t(t) * groups * 2 * kRows;
        if (w.paired || !kPairs) {
          compute_tile<PairedInt8>(tile, scale, panel, w, n, valid, c);
        } else {
          compute_some<Int8>(tile, scale, panel, w, n, valid, c);
        }
      } else if (w.precision == Precision::int16) {
        compute_tile<Int16>(tile, a.scale + size_t(t) * groups * 2 * kRows, panel, w, n, valid, c);
      } else {
        compute_tile<Fp32>(tile, nullptr, panel, w, n, valid, c);
      }
      done(t, n, valid, c);
    }
    after(n);
  }
}

template <class Done, class After>
ASA_INLINE void for_each_tile(const Rows& a, const Linear& w, int rows, Done done, After after) {
  for_each_tile(a, w, 0, w.out, rows, done, after);
}

ASA_INLINE void nothing(int) {}

}  // namespace asa::ASA_ISA
