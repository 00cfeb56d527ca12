// CUDA's block of threads on one CPU thread: what a kernel's source needs to compile and run as
// plain C++. Each thread of a block is a fiber, which runs until it waits for others: a barrier, a
// warp's exchange. Memory that nothing wrote yet is NaN.
//
// A warp runs as far as it can before the next one starts, and so does a lane within its warp, both
// in an order drawn from a seed; so a forgotten barrier shows as a wrong or NaN result, not as
// luck.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

namespace asa::cuda::emulation {

inline constexpr int kWarp = 32;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// What a running kernel sees of itself.
struct Thread {
  Index thread, block, block_size, grid_size;
  unsigned char* shared = nullptr;
};
Thread& self();

// Runs `kernel` in every thread of every block. Throws std::logic_error where threads wait for one
// another in vain, or at different places. A kernel must not throw.
void run(Index grid, Index block, std::size_t shared_bytes, const std::function<void()>& kernel);

// The order of blocks, warps and lanes from now on; 0 is ascending. What is copied in the
// background arrives as late as it may, or with odd seeds at once.
void shuffle(std::uint64_t seed);

// Where a kernel's threads wait for one another.
struct Site {
  const char* file;
  int line;
  bool operator<(const Site& other) const {
    return line != other.line ? line < other.line : std::strcmp(file, other.file) < 0;
  }
};

// Barriers that kernels have come to; and one to pass as if it were not there (a null file: none),
// for tests that a missing barrier is noticed.
std::vector<Site> barriers_met();
void pass_barrier(const Site& site);

void sync_threads(const Site& site);
void sync_warp(const Site& site);

// All lanes of a warp meet; the last one computes every lane's result from every lane's input.
using Meeting = void (*)(const void* inputs, void* results);
void meet(int line, const void* input, std::size_t input_bytes, void* result,
          std::size_t result_bytes, Meeting meeting);

// A copy in the background: it may come at any time until its group is waited for.
void defer(void* to, const void* from, std::size_t bytes, std::size_t zeros);
void commit_deferred();
// Waits for all groups of copies but the last `groups`.
void finish_deferred(int groups);

template <class T>
T shuffle_xor(T value, int mask, int line) {
  struct Input {
    T value;
    int mask;
  } input{value, mask};
  T result;
  meet(line, &input, sizeof(input), &result, sizeof(result), [](const void* in, void* out) {
    for (int lane = 0; lane < kWarp; ++lane) {
      const auto* inputs = static_cast<const Input*>(in);
      static_cast<T*>(out)[lane] = inputs[lane ^ inputs[lane].mask].value;
    }
  });
  return result;
}

}  // namespace asa::cuda::emulation

#define threadIdx (::asa::cuda::emulation::self().thread)
#define blockIdx (::asa::cuda::emulation::self().block)
#define blockDim (::asa::cuda::emulation::self().block_size)
#define gridDim (::asa::cuda::emulation::self().grid_size)
#define __syncthreads() ::asa::cuda::emulation::sync_threads({__FILE__, __LINE__})
#define __syncwarp() ::asa::cuda::emulation::sync_warp({__FILE__, __LINE__})
#define __shfl_xor_sync(mask, value, lanes) \
  ::asa::cuda::emulation::shuffle_xor(value, lanes, __LINE__)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline void __threadfence() {}
template <class T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}
template <class T>
T atomicMax(T* to, T value) {
  const T before = *to;
  if (value > before) *to = value;
  return before;
}
inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float __int_as_float(int bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
