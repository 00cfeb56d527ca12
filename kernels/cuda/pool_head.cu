// Every block pools 16 frames of a window and leaves its sums in memory; the one that comes last
// of a window's adds them up, strip by strip, and goes on with the head.
#include <math.h>

#include "asa/cuda/pool_head.h"
#include "asa/pool.h"
#include "kernel.h"

namespace asa::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMostHeads = 32;

struct Shared {
  float weight[kMostHeads][kStripRows];
  int last;
};

// Where the parts of one window's scratch begin.
struct Places {
  std::size_t features, hidden, prior, profile, place, near, end;

  __host__ __device__ explicit Places(const HeadShape& s) {
    std::size_t at = std::size_t(round_up(s.stats(), 4));  // the total statistics come first
    const auto take = [&](int count) {
      const std::size_t before = at;
      at += std::size_t(round_up(count, 4));
      return before;
    };
    features = take(s.features());
    hidden = take(s.prior_width > s.hidden ? s.prior_width : s.hidden);
    prior = take(s.levels);
    profile = take(2 * s.sums());
    place = take(s.place + 1);
    near = take(s.centres);
    end = at;
  }
};

struct Scratch {
  float *total, *features, *hidden, *prior, *profile, *place, *near;

  __device__ Scratch(const HeadShape& s, float* all, int window) {
    const Places at(s);
    total = all + window * at.end;
    features = total + at.features;
    hidden = total + at.hidden;
    prior = total + at.prior;
    profile = total + at.profile;
    place = total + at.place;
    near = total + at.near;
  }
};

// The sum over i of w[i] x[i], or of (w[i] - x[i])^2; a whole warp's work. Padding adds nothing.
template <bool kDistance>
__device__ __forceinline__ float combine(const float* w, const float* x, int count, int lane) {
  const float4* left = reinterpret_cast<const float4*>(w);
  const float4* right = reinterpret_cast<const float4*>(x);
  float sum = 0.0f;
#pragma unroll 4
  for (int i = lane; i < round_up(count, 4) / 4; i += kWarp) {
    const float4 a = left[i], b = right[i];
    if (kDistance) {
      const float4 d = {a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w};
      sum += (d.x * d.x + d.y * d.y) + (d.z * d.z + d.w * d.w);
    } else {
      sum += (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w);
    }
  }
  return warp_sum(sum);
}

// Clears what pads `count` numbers to a multiple of four.
__device__ __forceinline__ void pad(float* x, int count) {
  const int at = count + int(threadIdx.x);
  if (at < round_up(count, 4)) x[at] = 0.0f;
}

__device__ __forceinline__ void linear(const float* w, const float* bias, const float* x, int in,
                                       int out, bool activate, float* y) {
  const int lane = int(threadIdx.x) % kWarp;
  for (int o = int(threadIdx.x) / kWarp; o < out; o += kWarps) {
    const float sum = combine<false>(w + std::size_t(o) * round_up(in, 4), x, in, lane) + bias[o];
    if (lane == 0) y[o] = activate ? gelu(sum) : sum;
  }
  pad(y, out);
  __syncthreads();
}

__device__ __forceinline__ double deviation(double mean, double square) {
  const double variance = square - mean * mean;
  return sqrt(variance < kVarianceFloor ? kVarianceFloor : variance);  // NaN stays
}

// LayerNorm over part(0), ..., part(width - 1); one warp's work.
template <class Part>
__device__ __forceinline__ void norm(const Part& part, int width, const float* weight,
                                     const float* bias, float* to, int lane) {
  double sum = 0.0, squares = 0.0;
  for (int i = lane; i < width; i += kWarp) sum += part(i);
  const double mean = warp_sum(sum) / width;
  for (int i = lane; i < width; i += kWarp) squares += (part(i) - mean) * (part(i) - mean);
  const double inverse = 1.0 / sqrt(warp_sum(squares) / width + 1e-5);
  for (int i = lane; i < width; i += kWarp) {
    to[i] = float((part(i) - mean) * inverse * weight[i] + bias[i]);
  }
}

// The whole block's work: total statistics to prior and scores.
__device__ void run_head(const PoolHead& h, int window) {
  const HeadShape& s = h.shape;
  const HeadWeights& w = h.weights;
  const Scratch k(s, h.scratch, window);
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const double count = k.total[0];
  const float* total = k.total + 1;
  const float* squares = total + s.width;
  const float* attention = squares + s.width;
  const float* weighted = attention + s.heads;

  if (warp == 0) {
    norm([&](int i) { return total[i] / count; }, s.width, w.prior_norm_weight, w.prior_norm_bias,
         k.features, lane);
  }
  pad(k.features, s.width);
  __syncthreads();
  linear(w.prior_fc1_weight, w.prior_fc1_bias, k.features, s.width, s.prior_width, true, k.hidden);
  linear(w.prior_fc2_weight, w.prior_fc2_bias, k.hidden, s.prior_width, s.levels, false, k.prior);
  if (threadIdx.x == 0) {
    double top = k.prior[0], sum = 0.0;
    for (int i = 1; i < s.levels; ++i) top = k.prior[i] > top ? k.prior[i] : top;
    for (int i = 0; i < s.levels; ++i) sum += exp(k.prior[i] - top);
    for (int i = 0; i < s.levels; ++i) k.prior[i] = float(exp(k.prior[i] - top) / sum);
  }
  for (int p = warp; p < 2 + s.heads; p += kWarps) {
    const std::size_t at = std::size_t(p) * s.width;
    const auto part = [&](int i) -> double {
      if (p == 0) return total[i] / count;
      if (p == 1) return deviation(total[i] / count, squares[i] / count);
      return double(weighted[std::size_t(p - 2) * s.width + i]) / attention[p - 2];
    };
    norm(part, s.width, w.pool_norm_weight + at, w.pool_norm_bias + at, k.features + at, lane);
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < s.levels; i += kThreads) {
    h.prior[std::size_t(window) * s.levels + i] = k.prior[i];
  }
  // Its output's padding is the duration's place, and what pads the features.
  linear(w.prior_projector_weight, w.prior_projector_bias, k.prior, s.levels, s.embedding, false,
         k.features + s.pooled());
  double duration = log(count / kReferenceFrames) / kLogFramesScale;
  duration = duration < kLogFramesLow ? kLogFramesLow : duration;
  duration = duration > kLogFramesHigh ? kLogFramesHigh : duration;
  if (threadIdx.x == 0) k.features[s.features() - 1] = float(duration);
  pad(k.features, s.features());
  __syncthreads();
  linear(w.fc1_weight, w.fc1_bias, k.features, s.features(), s.hidden, true, k.hidden);
  float* scores = h.scores + std::size_t(window) * s.aspects;
  for (int a = warp; a < s.aspects; a += kWarps) {
    const float* row = w.fc2_weight + std::size_t(a) * round_up(s.hidden, 4);
    const float sum = combine<false>(row, k.hidden, s.hidden, lane) + w.fc2_bias[a];
    if (lane == 0) scores[a] = w.score_mean[a] + w.score_std[a] * sum;
  }
  if (!s.centres) return;

  const float* sums = weighted + std::size_t(s.heads) * s.width;
  for (int i = int(threadIdx.x); i < s.sums(); i += kThreads) {
    const double mean = sums[i] / count;
    k.profile[i] = float(mean);
    k.profile[s.sums() + i] = float(deviation(mean, sums[s.sums() + i] / count));
  }
  pad(k.profile, 2 * s.sums());
  __syncthreads();
  linear(w.kernel_projection, w.kernel_bias, k.profile, 2 * s.sums(), s.place, false, k.place);
  if (threadIdx.x == 0) k.place[s.place] = float(duration * w.kernel_duration[0]);
  pad(k.place, s.place + 1);
  __syncthreads();
  for (int c = warp; c < s.centres; c += kWarps) {
    const float* centre = w.kernel_centres + std::size_t(c) * round_up(s.place + 1, 4);
    const float distance = combine<true>(centre, k.place, s.place + 1, lane);
    if (lane == 0) k.near[c] = expf(-distance);
  }
  __syncthreads();
  for (int a = warp; a < s.aspects; a += kWarps) {
    const float* weights = w.kernel_weights + std::size_t(a) * round_up(s.centres, 4);
    double sum = 0.0;
    for (int c = lane; c < s.centres; c += kWarp) sum += double(weights[c]) * k.near[c];
    sum = warp_sum(sum) + w.kernel_mean[a];
    if (lane == 0) scores[a] = float(w.blend[a] * double(scores[a]) + (1.0 - w.blend[a]) * sum);
  }
}

__device__ void total_up(const PoolHead& h, int window) {
  const int count = h.shape.stats();
  const float* stats = h.stats + std::size_t(window) * count;
  float* total = Scratch(h.shape, h.scratch, window).total;
  const bool summed = h.summed && *h.summed;
  const std::size_t at = std::size_t(window) * count;
  for (int i = int(threadIdx.x); i < count; i += kThreads) {
    total[i] = summed ? float(h.sums[at + i] + stats[i]) : stats[i];
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) pool_strip(PoolHead h, Ragged r) {
  if (int(blockIdx.x) >= *r.strips) return;
  Shared& s = shared_memory<Shared>();
  const Span span = r.strip[blockIdx.x];
  const int start = r.starts[span.window], length = r.starts[span.window + 1] - start;
  const int rows = min(kStripRows, length - span.first);
  const float* frames = h.frames + std::size_t(start + span.first) * h.stride;
  const int width = h.shape.width, heads = h.shape.heads, sums = pooled_sums(h.shape);
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;

  for (int row = warp; row < rows; row += kWarps) {
    const float* x = frames + std::size_t(row) * h.stride;
    for (int head = 0; head < heads; ++head) {
      const float* weight = h.attention_weight + std::size_t(head) * width;
      float sum = 0.0f;
      for (int i = lane; i < width; i += kWarp) sum += weight[i] * x[i];
      const float logit = warp_sum(sum) + h.attention_bias[head];
      if (lane == 0) {
        s.weight[head][row] = expf(kAttentionBound * tanhf(logit / kAttentionBound));
      }
    }
  }
  __syncthreads();

  float* partial = h.partial + std::size_t(blockIdx.x) * sums;
  for (int i = int(threadIdx.x); i < width; i += kThreads) {
    float x[kStripRows], total = 0.0f, squares = 0.0f;
#pragma unroll
    for (int row = 0; row < kStripRows; ++row) {
      x[row] = row < rows ? frames[std::size_t(row) * h.stride + i] : 0.0f;
      total += x[row];
      squares += x[row] * x[row];
    }
    partial[i] = total;
    partial[width + i] = squares;
    for (int head = 0; head < heads; ++head) {
      float weighted = 0.0f;
#pragma unroll
      for (int row = 0; row < kStripRows; ++row) {
        if (row < rows) weighted += s.weight[head][row] * x[row];
      }
      partial[2 * width + heads + head * width + i] = weighted;
    }
  }
  for (int head = int(threadIdx.x); head < heads; head += kThreads) {
    float sum = 0.0f;
    for (int row = 0; row < rows; ++row) sum += s.weight[head][row];
    partial[2 * width + head] = sum;
  }

  const int strips = (length + kStripRows - 1) / kStripRows;
  if (!comes_last(h.arrived + span.window, unsigned(strips), &s.last)) return;
  float* stats = h.stats + std::size_t(span.window) * h.shape.stats();
  const float* first = h.partial + (std::size_t(blockIdx.x) - span.first / kStripRows) * sums;
  if (threadIdx.x == 0) stats[0] = float(length);
  for (int i = int(threadIdx.x); i < sums; i += kThreads) {
    float sum = 0.0f;
    for (int strip = 0; strip < strips; ++strip) sum += first[std::size_t(strip) * sums + i];
    stats[1 + i] = sum;
  }
  __syncthreads();
  total_up(h, span.window);
  run_head(h, span.window);
}

__global__ void __launch_bounds__(kThreads) score_window(PoolHead h) {
  total_up(h, int(blockIdx.x));
  run_head(h, int(blockIdx.x));
}

void check(const HeadShape& shape) {
  if (shape.heads > kMostHeads) {
    throw std::invalid_argument("pooling has 32 heads at most on the GPU");
  }
}

}  // namespace

std::size_t head_scratch_floats(const HeadShape& shape) { return Places(shape).end; }

void pool_and_score(Stream& stream, const PoolHead& head, const Ragged& ragged) {
  check(head.shape);
  launch(stream, pool_strip, {unsigned(ragged.strip_room)}, kThreads, sizeof(Shared), head, ragged);
}

void score(Stream& stream, const PoolHead& head, int windows) {
  check(head.shape);
  if (windows) launch(stream, score_window, {unsigned(windows)}, kThreads, 0, head);
}

}  // namespace asa::cuda
