// Tensor cores and background copies: PTX, or its emulation. Fragments are PTX's own, so that a
// product's result can be the next one's factor without going through memory.
//
// With g = lane / 4, t = lane % 4, a 16 x 8 x 16 product's factors lie in a lane's registers so:
//   a[0] (g, 2t..), a[1] (g + 8, 2t..), a[2] (g, 2t + 8..), a[3] (g + 8, 2t + 8..)   of A [16][16]
//   b[0] (2t.., g), b[1] (2t + 8.., g)                                               of B [16][8]
//   c[0..1] (g, 2t..), c[2..3] (g + 8, 2t..)                                         of C [16][8]
#pragma once

#include "kernel.h"

namespace asa::cuda {

// Elements of one 16-byte copy.
inline constexpr int kPiece = 8;

// Where piece `piece` of row `row` lies in a tile whose rows are `kPieces` pieces: so that eight
// rows' pieces of one column lie in different banks.
template <int kPieces>
__device__ __forceinline__ int swizzled(int row, int piece) {
  static_assert(kPieces == 4 || kPieces == 8 || kPieces == 16, "");
  const int turned = kPieces == 4 ? piece ^ (row >> 1 & 3) : piece ^ (row & 7);
  return (row * kPieces + turned) * kPiece;
}

#if defined(ASA_EMULATED)

template <class T>
inline void multiply_add(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  struct Input {
    T a[8], b[4];
    float c[4];
  } input;
  std::memcpy(input.a, a, sizeof(input.a));
  std::memcpy(input.b, b, sizeof(input.b));
  std::memcpy(input.c, c, sizeof(input.c));
  struct Result {
    float c[4];
  } result;
  emulation::meet(
      __LINE__, &input, sizeof(input), &result, sizeof(result), [](const void* in, void* out) {
        const auto* inputs = static_cast<const Input*>(in);
        auto* results = static_cast<Result*>(out);
        float left[16][16], right[16][8];
        for (int lane = 0; lane < kWarp; ++lane) {
          const int g = lane / 4, t = lane % 4;
          for (int i = 0; i < 8; ++i) {
            left[g + (i / 2 % 2) * 8][2 * t + i % 2 + i / 4 * 8] = inputs[lane].a[i].value();
          }
          for (int i = 0; i < 4; ++i)
            right[2 * t + i % 2 + i / 2 * 8][g] = inputs[lane].b[i].value();
        }
        for (int lane = 0; lane < kWarp; ++lane) {
          for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float sum = inputs[lane].c[i];
            for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
            results[lane].c[i] = sum;
          }
        }
      });
  std::memcpy(c, result.c, sizeof(result.c));
}

// Four 8 x 8 matrices; lanes 8 i .. 8 i + 7 give the rows of the i-th.
template <bool kTransposed, class T>
inline void load_matrices(std::uint32_t* to, const T* row) {
  struct Result {
    T elements[8];
  } result;
  emulation::meet(
      __LINE__, &row, sizeof(row), &result, sizeof(result), [](const void* in, void* out) {
        const auto* rows = static_cast<const T* const*>(in);
        auto* results = static_cast<Result*>(out);
        for (int lane = 0; lane < kWarp; ++lane) {
          for (int i = 0; i < 8; ++i) {
            const int along = lane % 4 * 2 + i % 2, across = lane / 4;
            const T* const* matrix = rows + i / 2 * 8;
            results[lane].elements[i] = kTransposed ? matrix[along][across] : matrix[across][along];
          }
        }
      });
  std::memcpy(to, &result, sizeof(result));
}

// Copies 16 bytes to shared memory, or writes zeros.
template <class T>
inline void copy_piece(T* to, const T* from, bool valid) {
  emulation::defer(to, from, valid ? 16 : 0, valid ? 0 : 16);
}
inline void commit_copies() { emulation::commit_deferred(); }
// Waits for all groups of copies but the last kLeft; a barrier must follow.
template <int kLeft>
inline void wait_for_copies() {
  emulation::finish_deferred(kLeft);
}

#else

template <class T>
__device__ void multiply_add(float* c, const std::uint32_t* a, const std::uint32_t* b);
template <>
__device__ __forceinline__ void multiply_add<fp16>(float* c, const std::uint32_t* a,
                                                   const std::uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void multiply_add<bf16>(float* c, const std::uint32_t* a,
                                                   const std::uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

template <bool kTransposed, class T>
__device__ __forceinline__ void load_matrices(std::uint32_t* to, const T* row) {
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
}

template <class T>
__device__ __forceinline__ void copy_piece(T* to, const T* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kLeft>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

#endif

}  // namespace asa::cuda
