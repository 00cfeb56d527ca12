#include <algorithm>
#include <cstring>

#include "kernel.h"
#include "upload.h"

namespace asa::cuda {
namespace {

std::uint16_t round_to(Format format, float x) {
  std::uint16_t bits;
  if (format == Format::bf16) {
    const bf16 rounded = from_float<bf16>(x);
    std::memcpy(&bits, &rounded, sizeof(bits));
  } else {
    const fp16 rounded = from_float<fp16>(x);
    std::memcpy(&bits, &rounded, sizeof(bits));
  }
  return bits;
}

}  // namespace

void Uploader::copy(const Memory& to, const void* from, std::size_t bytes) {
  stream_.copy_to_device(to.as(), from, bytes);
  stream_.synchronize();
}

void Uploader::numbers(const Memory& to, const std::vector<float>& from) {
  copy(to, from.data(), from.size() * sizeof(float));
}

void Uploader::vector(const Memory& to, const float* from, int count, int room) {
  std::vector<float> padded(room);
  std::copy_n(from, count, padded.data());
  numbers(to, padded);
}

void Uploader::matrix(const Memory& to, const float* from, int rows, int columns, int room_rows,
                      int room_columns) {
  std::vector<std::uint16_t> rounded(std::size_t(room_rows) * room_columns);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      rounded[std::size_t(r) * room_columns + c] =
          round_to(format_, from[std::size_t(r) * columns + c]);
    }
  }
  copy(to, rounded.data(), rounded.size() * sizeof(std::uint16_t));
}

void Uploader::convolution(const Memory& to, const float* from, int out, int in, int room_out,
                           int room_in) {
  std::vector<float> turned(std::size_t(out) * 3 * room_in);
  for (int o = 0; o < out; ++o) {
    for (int i = 0; i < in; ++i) {
      for (int k = 0; k < 3; ++k) {
        turned[(std::size_t(o) * 3 + k) * room_in + i] = from[(std::size_t(o) * in + i) * 3 + k];
      }
    }
  }
  matrix(to, turned.data(), out, 3 * room_in, room_out, 3 * room_in);
}

}  // namespace asa::cuda
