// Four warps take 16 queries each and the same keys, 64 at a time, the next ones on their way.
// Probabilities go from one product's registers to the next one's.
#include <math.h>

#include "asa/cuda/attention.h"
#include "mma.h"

namespace asa::cuda {
namespace {

constexpr int kKeys = 64;
constexpr int kThreads = kTileRows / 16 * kWarp;

template <class T, int kWidth>
struct Shared {
  T queries[kTileRows * kWidth];
  T keys[2][kKeys * kWidth];
  T values[2][kKeys * kWidth];
};

// Rows [first, first + 64) of a window, zeros beyond its end: what lies there is another window's,
// and zero times that need not be zero.
template <class T, int kWidth>
__device__ __forceinline__ void load_rows(T* to, const T* from, int stride, int first, int length) {
  constexpr int kPieces = kWidth / kPiece;
  for (int i = int(threadIdx.x); i < kKeys * kPieces; i += kThreads) {
    const int row = i / kPieces, piece = i % kPieces;
    const bool valid = first + row < length;
    copy_piece(to + swizzled<kPieces>(row, piece),
               from + std::size_t(valid ? first + row : 0) * stride + piece * kPiece, valid);
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) attend_tile(Attention a, Ragged r) {
  static_assert(kTileRows == kKeys, "one loader for both");
  if (int(blockIdx.x) >= *r.tiles) return;
  constexpr int kPieces = kWidth / kPiece, kSteps = kWidth / 16;
  Shared<T, kWidth>& s = shared_memory<Shared<T, kWidth>>();
  const Span span = r.tile[blockIdx.x];
  const int start = r.starts[span.window], length = r.starts[span.window + 1] - start;
  const int head = int(blockIdx.y), all = a.heads * kWidth;
  const T* queries = static_cast<const T*>(a.rows) + std::size_t(start) * a.stride + head * kWidth;
  const T* keys = queries + all;
  const T* values = keys + all;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;

  load_rows<T, kWidth>(s.queries, queries, a.stride, span.first, length);
  load_rows<T, kWidth>(s.keys[0], keys, a.stride, 0, length);
  load_rows<T, kWidth>(s.values[0], values, a.stride, 0, length);
  commit_copies();

  std::uint32_t query[kSteps][4];
  float out[kWidth / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};  // of rows g and g + 8
  const int tiles = (length + kKeys - 1) / kKeys;
  for (int tile = 0; tile < tiles; ++tile) {
    const int here = tile % 2;
    if (tile + 1 < tiles) {
      load_rows<T, kWidth>(s.keys[1 - here], keys, a.stride, (tile + 1) * kKeys, length);
      load_rows<T, kWidth>(s.values[1 - here], values, a.stride, (tile + 1) * kKeys, length);
    }
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();
    if (tile == 0) {
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        load_matrices<false>(
            query[k], s.queries + swizzled<kPieces>(warp * 16 + lane % 16, 2 * k + lane / 16));
      }
    }

    float score[kKeys / 8][4] = {};
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int j = 0; j < kKeys / 8; j += 2) {
        std::uint32_t key[2][2];
        load_matrices<false>(
            key[0], s.keys[here] +
                        swizzled<kPieces>(j * 8 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
        multiply_add<T>(score[j], query[k], key[0]);
        multiply_add<T>(score[j + 1], query[k], key[1]);
      }
    }

    const int left = length - tile * kKeys;  // keys that count, 1 at least
    float tile_top[2] = {top[0], top[1]};
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (j * 8 + lane % 4 * 2 + i % 2 >= left) score[j][i] = -INFINITY;
        tile_top[i / 2] = fmaxf(tile_top[i / 2], score[j][i]);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      tile_top[i] = fmaxf(tile_top[i], __shfl_xor_sync(kAllLanes, tile_top[i], 1));
      tile_top[i] = fmaxf(tile_top[i], __shfl_xor_sync(kAllLanes, tile_top[i], 2));
      const float factor = exp2f(top[i] - tile_top[i]);
      top[i] = tile_top[i];
      total[i] *= factor;
#pragma unroll
      for (int j = 0; j < kWidth / 8; ++j) {
        out[j][2 * i] *= factor;
        out[j][2 * i + 1] *= factor;
      }
    }
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        score[j][i] = exp2f(score[j][i] - top[i / 2]);
        total[i / 2] += score[j][i];
      }
    }

#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      const std::uint32_t weight[4] = {pack<T>(score[2 * k][0], score[2 * k][1]),
                                       pack<T>(score[2 * k][2], score[2 * k][3]),
                                       pack<T>(score[2 * k + 1][0], score[2 * k + 1][1]),
                                       pack<T>(score[2 * k + 1][2], score[2 * k + 1][3])};
#pragma unroll
      for (int j = 0; j < kWidth / 8; j += 2) {
        std::uint32_t value[2][2];
        load_matrices<true>(value[0],
                            s.values[here] + swizzled<kPieces>(k * 16 + lane % 16, j + lane / 16));
        multiply_add<T>(out[j], weight, value[0]);
        multiply_add<T>(out[j + 1], weight, value[1]);
      }
    }
    __syncthreads();  // before the keys after the next ones take this place
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    total[i] += __shfl_xor_sync(kAllLanes, total[i], 1);
    total[i] += __shfl_xor_sync(kAllLanes, total[i], 2);
    const int row = span.first + warp * 16 + i * 8 + lane / 4;
    if (row >= length) continue;
    const float inverse = 1.0f / total[i];
    T* to = static_cast<T*>(a.out) + std::size_t(start + row) * a.out_stride + head * kWidth;
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
      *reinterpret_cast<std::uint32_t*>(to + j * 8 + lane % 4 * 2) =
          pack<T>(out[j][2 * i] * inverse, out[j][2 * i + 1] * inverse);
    }
  }
}

template <class T>
void start(Stream& stream, const Attention& a, const Ragged& r) {
  const Grid grid{unsigned(r.tile_room), unsigned(a.heads)};
  if (a.head_width == 32) {
    launch(stream, attend_tile<T, 32>, grid, kThreads, sizeof(Shared<T, 32>), a, r);
  } else {
    launch(stream, attend_tile<T, 64>, grid, kThreads, sizeof(Shared<T, 64>), a, r);
  }
}

}  // namespace

void attend(Stream& stream, Format format, const Attention& attention, const Ragged& ragged) {
  if (attention.head_width != 32 && attention.head_width != 64) {
    throw std::invalid_argument("a head is 32 or 64 wide here");
  }
  if (format == Format::bf16) {
    start<bf16>(stream, attention, ragged);
  } else {
    start<fp16>(stream, attention, ragged);
  }
}

}  // namespace asa::cuda
