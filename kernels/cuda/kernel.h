// What every kernel's source starts with: CUDA's own headers, or their emulation.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(ASA_EMULATED)
#include "emulation/block.h"
#include "emulation/half.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "asa/linear.h"
#include "device.h"

namespace asa::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

#if defined(ASA_EMULATED)
using fp16 = emulation::Fp16;
using bf16 = emulation::Bf16;
__host__ __device__ __forceinline__ float to_float(fp16 x) { return x.value(); }
__host__ __device__ __forceinline__ float to_float(bf16 x) { return x.value(); }
template <class T>
__host__ __device__ __forceinline__ T from_float(float x) {
  return T(x);
}
template <class T>
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  return T(low).bits | std::uint32_t(T(high).bits) << 16;
}
#else
using fp16 = __half;
using bf16 = __nv_bfloat16;
__host__ __device__ __forceinline__ float to_float(fp16 x) { return __half2float(x); }
__host__ __device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <class T>
__host__ __device__ T from_float(float x);
template <>
__host__ __device__ __forceinline__ fp16 from_float<fp16>(float x) {
  return __float2half_rn(x);
}
template <>
__host__ __device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}
template <class T>
__device__ std::uint32_t pack(float low, float high);
template <>
__device__ __forceinline__ std::uint32_t pack<fp16>(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(both);
}
template <>
__device__ __forceinline__ std::uint32_t pack<bf16>(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(both);
}
#endif

// The block's shared memory, all of it asked for at the launch.
template <class Shared>
__device__ __forceinline__ Shared& shared_memory() {
#if defined(ASA_EMULATED)
  return *reinterpret_cast<Shared*>(emulation::self().shared);
#else
  extern __shared__ __align__(16) unsigned char bytes[];
  return *reinterpret_cast<Shared*>(bytes);
#endif
}

__device__ __forceinline__ float gelu(float x) {
  return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  for (int lanes = kWarp / 2; lanes; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}

// True in every thread of the block that comes last of `blocks`: what the others wrote before can
// be read now. Leaves the counter at zero. All threads of the block must come.
__device__ __forceinline__ bool comes_last(unsigned* counter, unsigned blocks, int* flag) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const bool last = atomicAdd(counter, 1u) == blocks - 1;
    if (last) *counter = 0;
    *flag = last;
  }
  __syncthreads();
  const bool last = *flag;
  if (last) __threadfence();
  return last;
}

}  // namespace asa::cuda
