// Windows of different lengths end to end, as the kernels see them. Everything that changes from
// batch to batch is read from the GPU's memory, so that a captured graph serves any batch that its
// grids have room for.
#pragma once

namespace asa::cuda {

class Stream;

// What the factors of matrix products are kept in; sums are float32.
enum class Format { bf16, fp16 };

inline constexpr int kStripRows = 16;  // encoder frames that a block of row-wise work takes
inline constexpr int kTileRows = 64;   // encoder frames that a block of attention takes
inline constexpr int kStripMels = 2 * kStripRows;

// Some rows of one window.
struct Span {
  int window, first;
};

// Counts and tables in the GPU's memory; rooms are what grids are made for.
struct Ragged {
  const int* strips;        // how many
  const Span* strip;        // rows [first, first + kStripRows) of a window, windows in order
  const int* tiles;         // how many
  const Span* tile;         // rows [first, first + kTileRows)
  const int* starts;        // [windows + 1]: first row of each window
  const int* mel_frames;    // [windows]
  const int* mel_starts;    // [windows]: of the zero frame before the first frame; one follows too
  const int* input_starts;  // [windows + 1]: of samples, or of log-mel frames
  int strip_room, tile_room;
};

}  // namespace asa::cuda
