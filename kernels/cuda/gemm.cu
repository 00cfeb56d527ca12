// Tiles of rows by outputs, 32 inputs at a time, three of them on their way from memory.
#include "asa/cuda/gemm.h"
#include "mma.h"

namespace asa::cuda {
namespace {

constexpr int kDepth = 32;
constexpr int kStages = 3;
constexpr int kPieces = kDepth / kPiece;  // of a row

template <int kRowsOf, int kColumnsOf, int kWarpRowsOf, int kWarpColumnsOf>
struct TileShape {
  static constexpr int kRows = kRowsOf, kColumns = kColumnsOf;
  static constexpr int kWarpRows = kWarpRowsOf, kWarpColumns = kWarpColumnsOf;
  static constexpr int kWarpsAcross = kColumns / kWarpColumns;
  static constexpr int kThreads = kRows / kWarpRows * kWarpsAcross * kWarp;
};
using LargeTile = TileShape<128, 128, 64, 32>;
using SmallTile = TileShape<64, 64, 32, 32>;
constexpr int kManyTiles = 100;  // large ones, before they are used: about a GPU's multiprocessors

enum class Then { store, add, place };

struct Epilogue {
  Then then;
  bool gelu;
  void* out;
  int stride;
  const float* positions;
  const int* position;
};

template <class T, class Tile>
struct Shared {
  T rows[kStages][Tile::kRows * kDepth];
  T weight[kStages][Tile::kColumns * kDepth];
};

// Pieces of one matrix's tile, dealt to the threads.
template <class T, class Tile, int kLines>
struct Loader {
  static constexpr int kCount = kLines * kPieces / Tile::kThreads;
  const T* from[kCount];
  bool valid[kCount];

  __device__ __forceinline__ static int line(int i) {
    return int(threadIdx.x + i * Tile::kThreads) / kPieces;
  }
  __device__ __forceinline__ static int piece(int i) {
    return int(threadIdx.x + i * Tile::kThreads) % kPieces;
  }
  __device__ __forceinline__ void load(T* to, int step) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      copy_piece(to + swizzled<kPieces>(line(i), piece(i)), from[i] + step * kDepth, valid[i]);
    }
  }
};

template <class T>
__device__ __forceinline__ void finish(const Gemm& g, const Epilogue& e, int row, int column,
                                       float low, float high) {
  if (column >= g.out) return;
  const bool zero = g.source && g.source[row] < 0;
  low += g.bias[column];
  high += g.bias[column + 1];
  if (e.gelu) {
    low = gelu(low);
    high = gelu(high);
  }
  const std::size_t at = std::size_t(row) * e.stride + column;
  if (e.then == Then::store) {
    *reinterpret_cast<std::uint32_t*>(static_cast<T*>(e.out) + at) = zero ? 0u : pack<T>(low, high);
    return;
  }
  float2* to = reinterpret_cast<float2*>(static_cast<float*>(e.out) + at);
  const float2 other = e.then == Then::add
                           ? *to
                           : *reinterpret_cast<const float2*>(
                                 e.positions + std::size_t(e.position[row]) * g.out + column);
  *to = {other.x + low, other.y + high};
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads) multiply(Gemm g, Epilogue e) {
  const int count = *g.count;
  const int first_row = int(blockIdx.y) * Tile::kRows;
  const int first_column = int(blockIdx.x) * Tile::kColumns;
  if (first_row >= count) return;
  Shared<T, Tile>& s = shared_memory<Shared<T, Tile>>();

  Loader<T, Tile, Tile::kRows> rows;
#pragma unroll
  for (int i = 0; i < rows.kCount; ++i) {
    const int row = first_row + rows.line(i);
    const int source = row >= count ? -1 : g.source ? g.source[row] : row;
    rows.valid[i] = source >= 0;
    rows.from[i] = static_cast<const T*>(g.rows) + std::size_t(source < 0 ? 0 : source) * g.stride +
                   rows.piece(i) * kPiece;
  }
  Loader<T, Tile, Tile::kColumns> weight;
#pragma unroll
  for (int i = 0; i < weight.kCount; ++i) {
    const int column = first_column + weight.line(i);
    weight.valid[i] = column < g.out;
    weight.from[i] = static_cast<const T*>(g.weight) +
                     std::size_t(column < g.out ? column : 0) * g.in + weight.piece(i) * kPiece;
  }

  const int steps = g.in / kDepth;
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) {
      rows.load(s.rows[step], step);
      weight.load(s.weight[step], step);
    }
    commit_copies();
  }

  constexpr int kTall = Tile::kWarpRows / 16, kWide = Tile::kWarpColumns / 8;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int warp_row = warp / Tile::kWarpsAcross * Tile::kWarpRows;
  const int warp_column = warp % Tile::kWarpsAcross * Tile::kWarpColumns;
  float sum[kTall][kWide][4] = {};
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    // Everyone has left the stage that the step before read.
    const int next = step + kStages - 1;
    if (next < steps) {
      rows.load(s.rows[next % kStages], next);
      weight.load(s.weight[next % kStages], next);
    }
    commit_copies();
    const T* a = s.rows[step % kStages];
    const T* b = s.weight[step % kStages];
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      std::uint32_t left[kTall][4], right[kWide][2];
#pragma unroll
      for (int i = 0; i < kTall; ++i) {
        load_matrices<false>(
            left[i], a + swizzled<kPieces>(warp_row + i * 16 + lane % 16, 2 * k + lane / 16));
      }
#pragma unroll
      for (int j = 0; j < kWide; j += 2) {
        load_matrices<false>(right[j],
                             b + swizzled<kPieces>(warp_column + j * 8 + lane % 8 + lane / 16 * 8,
                                                   2 * k + lane / 8 % 2));
      }
#pragma unroll
      for (int i = 0; i < kTall; ++i) {
#pragma unroll
        for (int j = 0; j < kWide; ++j) multiply_add<T>(sum[i][j], left[i], right[j]);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kTall; ++i) {
    const int row = first_row + warp_row + i * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < kWide; ++j) {
      const int column = first_column + warp_column + j * 8 + lane % 4 * 2;
      if (row < count) finish<T>(g, e, row, column, sum[i][j][0], sum[i][j][1]);
      if (row + 8 < count) finish<T>(g, e, row + 8, column, sum[i][j][2], sum[i][j][3]);
    }
  }
}

template <class T, class Tile>
void start(Stream& stream, const Gemm& g, const Epilogue& e) {
  const Grid grid{unsigned(g.out + Tile::kColumns - 1) / Tile::kColumns,
                  unsigned(g.room + Tile::kRows - 1) / Tile::kRows};
  launch(stream, multiply<T, Tile>, grid, Tile::kThreads, sizeof(Shared<T, Tile>), g, e);
}

template <class T>
void start(Stream& stream, const Gemm& g, const Epilogue& e) {
  const long tiles = long(g.room / LargeTile::kRows) * (g.out / LargeTile::kColumns);
  if (tiles >= kManyTiles) {
    start<T, LargeTile>(stream, g, e);
  } else {
    start<T, SmallTile>(stream, g, e);
  }
}

void start(Stream& stream, Format format, const Gemm& g, const Epilogue& e) {
  if (format == Format::bf16) {
    start<bf16>(stream, g, e);
  } else {
    start<fp16>(stream, g, e);
  }
}

}  // namespace

void gemm_store(Stream& stream, Format format, const Gemm& g, bool gelu, void* out, int stride) {
  start(stream, format, g, {Then::store, gelu, out, stride, nullptr, nullptr});
}

void gemm_add(Stream& stream, Format format, const Gemm& g, float* x, int stride) {
  start(stream, format, g, {Then::add, false, x, stride, nullptr, nullptr});
}

void gemm_place(Stream& stream, Format format, const Gemm& g, const float* positions,
                const int* position, float* x, int stride) {
  start(stream, format, g, {Then::place, true, x, stride, positions, position});
}

}  // namespace asa::cuda
