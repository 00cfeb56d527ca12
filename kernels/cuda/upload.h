// Weights as checkpoints have them, into the GPU's memory as the kernels want them. Room that is
// larger than what comes is filled with zeros.
#pragma once

#include <vector>

#include "asa/cuda/ragged.h"
#include "device.h"

namespace asa::cuda {

class Uploader {
 public:
  Uploader(Stream& stream, Format format) : stream_(stream), format_(format) {}

  void numbers(const Memory& to, const std::vector<float>& from);
  void vector(const Memory& to, const float* from, int count, int room);

  // [rows][columns], rounded to the format.
  void matrix(const Memory& to, const float* from, int rows, int columns, int room_rows,
              int room_columns);

  // [out][in][3] as [out][3][in], which is how rows of three frames end to end meet it; rounded.
  void convolution(const Memory& to, const float* from, int out, int in, int room_out, int room_in);

 private:
  void copy(const Memory& to, const void* from, std::size_t bytes);

  Stream& stream_;
  Format format_;
};

}  // namespace asa::cuda
