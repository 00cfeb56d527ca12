// A block takes 16 rows of one window: first every row's mean and deviation, a warp a row; then two
// columns a thread down all rows, reading each number once more.
#include "asa/cuda/layer_norm.h"
#include "kernel.h"

namespace asa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

struct Shared {
  float mean[kStripRows], inverse[kStripRows];
  int last;
};

template <class T>
__global__ void __launch_bounds__(kThreads) norm_strip(Norm n, Ragged r) {
  if (int(blockIdx.x) >= *r.strips) return;
  Shared& s = shared_memory<Shared>();
  const Span span = r.strip[blockIdx.x];
  const int start = r.starts[span.window], length = r.starts[span.window + 1] - start;
  const int rows = min(kStripRows, length - span.first);
  const std::size_t at = std::size_t(start + span.first) * n.stride;
  const float* x = n.x + at;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;

  for (int row = warp; row < rows; row += kWarps) {
    const float* from = x + std::size_t(row) * n.stride;
    float sum = 0.0f;
    for (int i = lane; i < n.width; i += kWarp) sum += from[i];
    const float mean = warp_sum(sum) / float(n.width);
    float squares = 0.0f;
    for (int i = lane; i < n.width; i += kWarp) {
      squares += (from[i] - mean) * (from[i] - mean);
    }
    const float variance = warp_sum(squares) / float(n.width);
    if (lane == 0) {
      s.mean[row] = mean;
      s.inverse[row] = 1.0f / sqrtf(variance + 1e-5f);
    }
  }
  __syncthreads();

  for (int column = 2 * int(threadIdx.x); column < n.stride; column += 2 * kThreads) {
    const float2 gamma = *reinterpret_cast<const float2*>(n.gamma + column);
    const float2 beta = *reinterpret_cast<const float2*>(n.beta + column);
    float2 sum = {0.0f, 0.0f}, squares = {0.0f, 0.0f};
#pragma unroll 4
    for (int row = 0; row < rows; ++row) {
      const std::size_t here = std::size_t(row) * n.stride + column;
      float2 h = *reinterpret_cast<const float2*>(x + here);
      const float2 normal = {(h.x - s.mean[row]) * s.inverse[row] * gamma.x + beta.x,
                             (h.y - s.mean[row]) * s.inverse[row] * gamma.y + beta.y};
      if (n.out) {
        reinterpret_cast<std::uint32_t*>(static_cast<T*>(n.out) + at + here)[0] =
            pack<T>(normal.x, normal.y);
      }
      if (n.closing) h = normal;
      if (n.mixed) {
        float2* mixed = reinterpret_cast<float2*>(n.mixed + at + here);
        const float2 before = n.begin ? float2{0.0f, 0.0f} : *mixed;
        *mixed = {before.x + n.mix_weight * h.x, before.y + n.mix_weight * h.y};
      }
      sum = {sum.x + h.x, sum.y + h.y};
      squares = {squares.x + h.x * h.x, squares.y + h.y * h.y};
    }
    if (n.stats) {
      float* partial = n.partial + std::size_t(blockIdx.x) * 2 * n.stride + column;
      *reinterpret_cast<float2*>(partial) = sum;
      *reinterpret_cast<float2*>(partial + n.stride) = squares;
    }
  }
  if (!n.stats) return;

  const int strips = (length + kStripRows - 1) / kStripRows;
  if (!comes_last(n.arrived + span.window, unsigned(strips), &s.last)) return;
  const float* partial =
      n.partial + (std::size_t(blockIdx.x) - span.first / kStripRows) * 2 * n.stride;
  float* stats = n.stats + std::size_t(span.window) * n.stats_stride + n.at;
  for (int i = int(threadIdx.x); i < 2 * n.width; i += kThreads) {
    const int square = i >= n.width, column = i - square * n.width;
    float sum = 0.0f;
    for (int strip = 0; strip < strips; ++strip) {
      sum += partial[(std::size_t(strip) * 2 + square) * n.stride + column];
    }
    stats[square * n.squares + column] = sum;
  }
}

}  // namespace

void layer_norm(Stream& stream, Format format, const Norm& norm, const Ragged& ragged) {
  const Grid grid{unsigned(ragged.strip_room)};
  if (format == Format::bf16) {
    launch(stream, norm_strip<bf16>, grid, kThreads, sizeof(Shared), norm, ragged);
  } else {
    launch(stream, norm_strip<fp16>, grid, kThreads, sizeof(Shared), norm, ragged);
  }
}

}  // namespace asa::cuda
