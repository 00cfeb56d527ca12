// Products on the tile registers of AMX: 16 rows times 16 outputs of 16 words each at a time.
#pragma once

#include <immintrin.h>

#include "asa/linear.h"
#include "asa/simd.h"

namespace asa::ASA_ISA {

inline constexpr int kTileRows = 16;  // of a register, and its outputs, each a 32-bit word
inline constexpr int kTileStep = 16;  // words along the inputs that one product takes
inline constexpr int kRowBytes = 4 * kChunkWords;
inline constexpr int kAhead = 2 * kTileStep;  // words along the inputs, to be fetched

// Shapes the registers of this thread, all alike, as long as it lives. Whoever multiplies holds
// one: others use the registers too, and a thread that keeps them costs at each switch.
class TileRegisters {
 public:
  TileRegisters() {
    struct alignas(64) Shape {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static constexpr Shape kShape;
    _tile_loadconfig(&kShape);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// acc += kHalves times 16 rows of a tile times kColumns times 16 outputs of a panel, over whole
// steps of words; the registers' products of bytes and of bfloat16 differ in one instruction.
template <bool kBytes, int kHalves, int kColumns>
ASA_INLINE void multiply_tiles(const int32_t* a, const int32_t* b, int steps, void* acc) {
  constexpr int kPanelBytes = 2 * 64, kAccBytes = 64 * kColumns;
  char* const to = static_cast<char*>(acc);
  char* const lower = to + kTileRows * kAccBytes;
  asm volatile("" ::: "memory");  // the intrinsics do not say that they read memory
  _tile_loadd(0, to, kAccBytes);
  if constexpr (kColumns == 2) _tile_loadd(1, to + 64, kAccBytes);
  if constexpr (kHalves == 2) {
    _tile_loadd(2, lower, kAccBytes);
    if constexpr (kColumns == 2) _tile_loadd(3, lower + 64, kAccBytes);
  }
#define ASA_PRODUCT(c, x, y) \
  if constexpr (kBytes) {    \
    _tile_dpbusd(c, x, y);   \
  } else {                   \
    _tile_dpbf16ps(c, x, y); \
  }
  for (int step = 0; step < steps; ++step) {
    // A panel is read through, the next behind it: what comes after the next step, in time.
    for (int k = 0; k < kTileStep; ++k) {
      for (int v = 0; v < kColumns; ++v)
        __builtin_prefetch(b + (kAhead + k) * kPanel + v * kTileRows);
    }
    const int32_t* rows = a + step / 2 * kTileWords + step % 2 * kTileStep;
    _tile_loadd(4, rows, kRowBytes);
    _tile_loadd(6, b, kPanelBytes);
    ASA_PRODUCT(0, 4, 6)
    if constexpr (kColumns == 2) {
      _tile_loadd(7, b + kTileRows, kPanelBytes);
      ASA_PRODUCT(1, 4, 7)
    }
    if constexpr (kHalves == 2) {
      _tile_loadd(5, rows + kTileRows * kChunkWords, kRowBytes);
      ASA_PRODUCT(2, 5, 6)
      if constexpr (kColumns == 2) {
        ASA_PRODUCT(3, 5, 7)
      }
    }
    b += kTileStep * kPanel;
  }
#undef ASA_PRODUCT
  _tile_stored(0, to, kAccBytes);
  if constexpr (kColumns == 2) _tile_stored(1, to + 64, kAccBytes);
  if constexpr (kHalves == 2) {
    _tile_stored(2, lower, kAccBytes);
    if constexpr (kColumns == 2) _tile_stored(3, lower + 64, kAccBytes);
  }
}

}  // namespace asa::ASA_ISA
