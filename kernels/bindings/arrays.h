// Arrays as Python has them, and what all bindings check.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "asa/linear.h"
#include "asa/packed_weights.h"
#include "tensors.h"

using namespace nb::literals;

void bind_encoder(nb::module_& m);
void bind_decoder(nb::module_& m);
void bind_language_model(nb::module_& m);
void bind_speech(nb::module_& m);

using Samples = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<nb::numpy, int32_t, nb::ndim<1>, nb::c_contig>;

inline Numbers new_numbers(size_t size) {
  int32_t* data = new int32_t[size];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<int32_t*>(p); });
  return Numbers(data, {size}, owner);
}

using Vector = nb::ndarray<nb::numpy, float, nb::ndim<1>, nb::c_contig>;

inline Vector new_vector(size_t size) {
  float* data = new float[size];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return Vector(data, {size}, owner);
}

using Words = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// What is bound of a network's packed weights.
template <class Network>
void bind_packed(nb::class_<Network>& bound) {
  bound.def_prop_ro("packed_words", &Network::packed_words)
      .def("packed",
           [](const Network& self) {
             const asa::PackedWeights::Packed packed = self.packed();
             return nb::ndarray<nb::numpy, const int32_t, nb::ndim<1>>(packed.words, {packed.count},
                                                                       nb::find(self));
           })
      .def(
          "adopt", [](Network& self, Words words) { self.adopt({words.data(), words.size()}); },
          "words"_a.noconvert(), nb::keep_alive<1, 2>());
}

template <class Network>
void set_final_norm(Network& self, const std::vector<Weights>& tensors) {
  const size_t width = self.shape().width;
  const auto p = pointers(tensors, {width, width});
  self.set_final_norm(p[0], p[1]);
}

// Feeds what takes samples piece by piece, while Python does other things.
template <class Sink>
void push(Sink& self, Samples samples) {
  nb::gil_scoped_release release;
  self.push(samples.data(), samples.size());
}

using Mel = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

inline asa::Precision precision_named(const std::string& name) {
  if (name == "fp32") return asa::Precision::fp32;
  if (name == "bf16") return asa::Precision::bf16;
  if (name == "int8") return asa::Precision::int8;
  throw std::invalid_argument("precision is \"" + name + "\"; it must be fp32, bf16 or int8");
}
