// Tensors as Python hands them over, in the bindings of the CPU's and of the GPU's kernels.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "asa/head_tensors.h"

namespace nb = nanobind;

using Weights = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;

using Matrix = nb::ndarray<nb::numpy, float, nb::ndim<2>, nb::c_contig>;

inline Matrix new_matrix(size_t rows, size_t columns) {
  float* data = new float[rows * columns];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return Matrix(data, {rows, columns}, owner);
}

// Checks the number of tensors and of their elements, in the order given.
inline std::vector<const float*> pointers(const std::vector<Weights>& tensors,
                                          const std::vector<std::size_t>& sizes) {
  if (tensors.size() != sizes.size()) throw std::invalid_argument("wrong number of tensors");
  std::vector<const float*> data;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (tensors[i].size() != sizes[i]) {
      throw std::invalid_argument("tensor " + std::to_string(i) + " has " +
                                  std::to_string(tensors[i].size()) + " elements, not " +
                                  std::to_string(sizes[i]));
    }
    data.push_back(tensors[i].data());
  }
  return data;
}

// What stands before the head's tensors has these sizes; it is put into `before`.
inline asa::HeadWeights head_weights(const std::vector<Weights>& tensors,
                                     const asa::HeadShape& shape, std::vector<std::size_t> sizes,
                                     std::vector<const float*>& before) {
  const std::size_t first = sizes.size();
  const std::vector<asa::HeadTensor> table = asa::head_tensors(shape);
  for (const asa::HeadTensor& tensor : table) sizes.push_back(tensor.count);
  before = pointers(tensors, sizes);
  asa::HeadWeights weights{};
  for (std::size_t i = 0; i < table.size(); ++i) weights.*table[i].place = before[first + i];
  before.resize(first);
  return weights;
}
