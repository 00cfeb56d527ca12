#include "asa/dense.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "asa/isa.h"

namespace asa {
namespace {

constexpr std::size_t kMostWidth = 1 << 20, kMostWeights = 1 << 28;
constexpr int kTiles = 8;  // multiplied at a time, so that a panel is read once for all of them

}  // namespace

Dense::Dense(const float* weight, std::size_t in, std::size_t out) {
  if (!in || !out || in > kMostWidth || out > kMostWidth || in * out > kMostWeights) {
    throw std::invalid_argument("a matrix is [K, N], neither 0, of at most 2^28 numbers");
  }
  const GemmKernels& gemm = kernels().gemm;
  out_ = static_cast<int>(out);
  linear_.in = static_cast<int>(in);
  linear_.out = round_up(out_, gemm.geometry.panel);
  std::vector<float> turned(static_cast<std::size_t>(linear_.out) * in);
  for (std::size_t k = 0; k < in; ++k) {
    for (std::size_t n = 0; n < out; ++n) turned[n * in + k] = weight[k * out + n];
  }
  panels_ = Buffer(turned.size());
  bias_ = Buffer(linear_.out);
  linear_.panels = panels_.ints();
  linear_.bias = bias_.floats();
  gemm.pack(turned.data(), nullptr, linear_);
}

void Dense::run(const float* x, std::size_t count, float* y) const {
  const GemmKernels& gemm = kernels().gemm;
  const std::size_t most = static_cast<std::size_t>(kTiles) * gemm.geometry.rows;
  const std::size_t whole = linear_.in, stride = round_up(linear_.in, kGroup);
  Buffer rows(most * stride), results(most * linear_.out);
  Buffer words(most * chunks_of(Precision::fp32, linear_.in) * kChunkWords);
  const Rows packed = {Precision::fp32, linear_.in, words.ints(), nullptr};
  for (std::size_t first = 0; first < count; first += most) {
    const int some = static_cast<int>(std::min(most, count - first));
    for (int r = 0; r < some; ++r) {
      std::memcpy(rows.floats() + r * stride, x + (first + r) * whole, sizeof(float) * whole);
    }
    gemm.put_rows(rows.floats(), static_cast<int>(stride), some, packed);
    gemm.store(packed, linear_, 0, linear_.out, some, results.floats(), linear_.out);
    for (int r = 0; r < some; ++r) {
      std::memcpy(y + (first + r) * out_,
                  results.floats() + static_cast<std::size_t>(r) * linear_.out,
                  sizeof(float) * out_);
    }
  }
}

}  // namespace asa
