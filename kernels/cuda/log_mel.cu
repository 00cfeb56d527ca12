// A warp takes one frame at a time: 400 samples as a complex transform of 200 = 8 x 5 x 5 points in
// shared memory, its split into the real one's 201 bins, the mel filters, the logarithm. The floor
// needs the window's maximum, hence a second launch, which also lays the frames out.
#include <math.h>

#include "asa/cuda/log_mel.h"
#include "kernel.h"

namespace asa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kHalf = kFft / 2;

struct Shared {
  float2 a[kWarps][kHalf], b[kWarps][kHalf];
  float power[kWarps][kBins];
};

__device__ __forceinline__ float2 operator+(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }
__device__ __forceinline__ float2 operator-(float2 a, float2 b) { return {a.x - b.x, a.y - b.y}; }
__device__ __forceinline__ float2 turn(float2 a, const float* root) {
  return {a.x * root[0] - a.y * root[1], a.x * root[1] + a.y * root[0]};
}
__device__ __forceinline__ float2 times_minus_i(float2 a) { return {a.y, -a.x}; }

__device__ __forceinline__ void transform4(float2& a, float2& b, float2& c, float2& d) {
  const float2 s = a + c, t = a - c, u = b + d, v = times_minus_i(b - d);
  a = s + u;
  b = t + v;
  c = s - u;
  d = t - v;
}

__device__ __forceinline__ void transform8(float2* x) {
  constexpr float r = 0.70710678118654752f;
  const float first[2] = {r, -r}, third[2] = {-r, -r};
  transform4(x[0], x[2], x[4], x[6]);
  transform4(x[1], x[3], x[5], x[7]);
  const float2 even[4] = {x[0], x[2], x[4], x[6]};
  const float2 odd[4] = {x[1], turn(x[3], first), times_minus_i(x[5]), turn(x[7], third)};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[i] = even[i] + odd[i];
    x[i + 4] = even[i] - odd[i];
  }
}

__device__ __forceinline__ void transform5(float2* x) {
  constexpr float c1 = 0.30901699437494742f, c2 = -0.80901699437494742f;
  constexpr float s1 = 0.95105651629515357f, s2 = 0.58778525229247313f;
  const float2 p = x[1] + x[4], q = x[2] + x[3], u = x[1] - x[4], v = x[2] - x[3];
  const float2 m = {x[0].x + c1 * p.x + c2 * q.x, x[0].y + c1 * p.y + c2 * q.y};
  const float2 n = {x[0].x + c2 * p.x + c1 * q.x, x[0].y + c2 * p.y + c1 * q.y};
  const float2 w = times_minus_i({s1 * u.x + s2 * v.x, s1 * u.y + s2 * v.y});
  const float2 z = times_minus_i({s2 * u.x - s1 * v.x, s2 * u.y - s1 * v.y});
  x[0] = x[0] + p + q;
  x[1] = m + w;
  x[2] = n + z;
  x[3] = n - z;
  x[4] = m - w;
}

// a: 400 windowed samples as 200 complex numbers; gives their transform in b.
__device__ __forceinline__ void transform200(const MelTables& t, float2* a, float2* b, int lane) {
  if (lane < 25) {
    float2 x[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = a[25 * i + lane];
    transform8(x);
#pragma unroll
    for (int i = 0; i < 8; ++i) b[25 * i + lane] = i ? turn(x[i], t.twiddle[25 * i + lane]) : x[0];
  }
  __syncwarp();
  // Eight transforms of 25, each five of 5, twice.
  for (int task = lane; task < 40; task += kWarp) {
    const int row = task / 5, n = task % 5;
    float2 x[5];
#pragma unroll
    for (int i = 0; i < 5; ++i) x[i] = b[25 * row + n + 5 * i];
    transform5(x);
#pragma unroll
    for (int k = 0; k < 5; ++k) a[25 * row + n + 5 * k] = k ? turn(x[k], t.root25[n * k]) : x[0];
  }
  __syncwarp();
  for (int task = lane; task < 40; task += kWarp) {
    const int row = task / 5, k = task % 5;
    float2 x[5];
#pragma unroll
    for (int i = 0; i < 5; ++i) x[i] = a[25 * row + 5 * k + i];
    transform5(x);
#pragma unroll
    for (int j = 0; j < 5; ++j) b[row + 8 * (k + 5 * j)] = x[j];
  }
  __syncwarp();
}

// Of integers ordered as the floats are; NaN is above all.
__device__ __forceinline__ int ordered(float x) {
  if (x != x) return 0x7fffffff;
  const int bits = __float_as_int(x);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}
__device__ __forceinline__ float from_ordered(int key) {
  if (key == 0x7fffffff) return NAN;
  return __int_as_float(key < 0 ? key ^ 0x7fffffff : key);
}

__global__ void __launch_bounds__(kThreads) log_power(LogMel m, Ragged r) {
  if (int(blockIdx.x) >= *r.strips) return;
  Shared& s = shared_memory<Shared>();
  const MelTables& tables = *m.tables;
  const Span span = r.strip[blockIdx.x];
  const int window = span.window, frames = r.mel_frames[window];
  const int start = r.input_starts[window], size = r.input_starts[window + 1] - start;
  const float* samples = m.input + start;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  float2* a = s.a[warp];
  float2* b = s.b[warp];
  float* power = s.power[warp];
  int top = -0x7fffffff;

  for (int i = warp; i < kStripMels; i += kWarps) {
    const int frame = 2 * span.first + i;
    if (frame >= frames) break;
    for (int n = lane; n < kHalf; n += kWarp) {
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        int at = frame * kHop - kEdge + 2 * n + j;
        at = at < 0 ? -at : at;
        at = at < size ? at : 2 * (size - 1) - at;
        const float x = samples[at];
        pair[j] = x - x == 0.0f ? x * tables.window[2 * n + j] : NAN;
      }
      a[n] = {pair[0], pair[1]};
    }
    __syncwarp();
    transform200(tables, a, b, lane);
    // X[k] = E + w O, conj(X[200 - k]) = E - w O; the window holds E's and O's halves.
    for (int k = lane; k <= kHalf / 2; k += kWarp) {
      if (k == 0) {
        const float sum = b[0].x + b[0].y, difference = b[0].x - b[0].y;
        power[0] = 4.0f * sum * sum;
        power[kHalf] = 4.0f * difference * difference;
        continue;
      }
      const float2 low = b[k], high = {b[kHalf - k].x, -b[kHalf - k].y};
      const float2 even = low + high, odd = turn(times_minus_i(low - high), tables.split[k]);
      const float2 up = even + odd, down = even - odd;
      power[k] = up.x * up.x + up.y * up.y;
      power[kHalf - k] = down.x * down.x + down.y * down.y;
    }
    __syncwarp();
    float* to = m.power + std::size_t(r.mel_starts[window] + 1 + frame) * m.stride;
    for (int mel = lane; mel < m.mels; mel += kWarp) {
      const float* bin = power + tables.mel_first[mel];
      float sum = 0.0f;
      for (int at = tables.mel_offset[mel]; at < tables.mel_offset[mel + 1]; ++at) {
        sum += tables.mel_weight[at] * *bin++;
      }
      const float level = log10f(sum < 1e-10f ? 1e-10f : sum);  // NaN stays
      to[mel] = level;
      top = max(top, ordered(level));
    }
  }
  for (int lanes = kWarp / 2; lanes; lanes /= 2) {
    top = max(top, __shfl_xor_sync(kAllLanes, top, lanes));
  }
  if (lane == 0) atomicMax(m.top + window, top);
}

template <class T>
__global__ void __launch_bounds__(kThreads) lay_out(LogMel m, Ragged r) {
  if (int(blockIdx.x) >= *r.strips) return;
  const Span span = r.strip[blockIdx.x];
  const int window = span.window, frames = r.mel_frames[window];
  const float floor = m.tables ? from_ordered(m.top[window]) - 8.0f : 0.0f;
  // The first strip writes the zero frame before the window, the last one that after it.
  const int first = 2 * span.first - (span.first == 0);
  const int end =
      min(2 * span.first + kStripMels, frames) + (2 * span.first + kStripMels >= frames);
  for (int i = int(threadIdx.x); i < (end - first) * m.stride; i += kThreads) {
    const int frame = first + i / m.stride, mel = i % m.stride;
    const std::size_t at = std::size_t(r.mel_starts[window] + 1 + frame) * m.stride + mel;
    float value = 0.0f;
    if (frame >= 0 && frame < frames && mel < m.mels) {
      if (m.tables) {
        const float level = m.power[at];
        value = ((level < floor || floor != floor ? floor : level) + 4.0f) / 4.0f;
      } else {
        value = m.input[std::size_t(r.input_starts[window] + frame) * m.mels + mel];
      }
    }
    static_cast<T*>(m.out)[at] = from_float<T>(value);
  }
}

}  // namespace

MelTables::MelTables(const LogMelPlan& plan) {
  for (int i = 0; i < kFft; ++i) window[i] = plan.window[i];
  for (int i = 0; i < kHalf; ++i) {
    twiddle[i][0] = plan.twiddle_cos[i];
    twiddle[i][1] = plan.twiddle_sin[i];
  }
  for (int i = 0; i < 17; ++i) {
    const double angle = -2.0 * 3.14159265358979323846 * i / 25.0;
    root25[i][0] = float(cos(angle));
    root25[i][1] = float(sin(angle));
  }
  for (int i = 0; i <= kFft / 4; ++i) {
    split[i][0] = plan.split_cos[i];
    split[i][1] = plan.split_sin[i];
  }
  for (int i = 0; i < 2 * kBins; ++i) mel_weight[i] = 0.0f;
  for (int i = 0; i < plan.mel_offset[plan.n_mels]; ++i) mel_weight[i] = plan.mel_weight[i];
  for (int i = 0; i < kMaxMels; ++i) mel_first[i] = i < plan.n_mels ? plan.mel_first[i] : 0;
  for (int i = 0; i <= kMaxMels; ++i) mel_offset[i] = i <= plan.n_mels ? plan.mel_offset[i] : 0;
}

void log_mel(Stream& stream, Format format, const LogMel& m, const Ragged& ragged) {
  const Grid grid{unsigned(ragged.strip_room)};
  if (m.tables) launch(stream, log_power, grid, kThreads, sizeof(Shared), m, ragged);
  if (format == Format::bf16) {
    launch(stream, lay_out<bf16>, grid, kThreads, 0, m, ragged);
  } else {
    launch(stream, lay_out<fp16>, grid, kThreads, 0, m, ragged);
  }
}

}  // namespace asa::cuda
