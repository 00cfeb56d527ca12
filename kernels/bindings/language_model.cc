#include "asa/language_model.h"

#include <memory>

#include "arrays.h"

namespace {

using Steps = nb::ndarray<const int8_t, nb::c_contig, nb::device::cpu>;
using State = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;

constexpr size_t kMatrices = 7;  // q, k, v, o, gate, up, down

struct Sizes {
  size_t out, in;
};

std::vector<Sizes> sizes_of(const asa::LanguageModelShape& s) {
  const size_t width = s.width, q = size_t(s.heads) * s.head_width;
  const size_t kv = size_t(s.kv_heads) * s.head_width, inner = s.inner;
  return {{q, width},     {kv, width},    {kv, width},   {width, q},
          {inner, width}, {inner, width}, {width, inner}};
}

// norms: both; weights: seven matrices; biases: of q, k and v, or none.
asa::LanguageLayerWeights beside(const asa::LanguageModelShape& s,
                                 const std::vector<Weights>& norms,
                                 const std::vector<Weights>& biases) {
  const size_t width = s.width, q = size_t(s.heads) * s.head_width;
  const size_t kv = size_t(s.kv_heads) * s.head_width;
  const auto n = pointers(norms, {width, width});
  asa::LanguageLayerWeights to{};
  to.norm1 = n[0];
  to.norm2 = n[1];
  if (!biases.empty()) {
    const auto b = pointers(biases, {q, kv, kv});
    to.q.bias = b[0];
    to.k.bias = b[1];
    to.v.bias = b[2];
  }
  return to;
}

std::vector<asa::Matrix*> matrices(asa::LanguageLayerWeights& w) {
  return {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down};
}

void set_layer(asa::LanguageModel& self, int layer, const std::vector<Weights>& norms,
               const std::vector<Weights>& weights, const std::vector<Weights>& biases) {
  std::vector<size_t> counts;
  for (const Sizes& size : sizes_of(self.shape())) counts.push_back(size.out * size.in);
  const auto p = pointers(weights, counts);
  asa::LanguageLayerWeights w = beside(self.shape(), norms, biases);
  const auto all = matrices(w);
  for (size_t i = 0; i < kMatrices; ++i) all[i]->weight = p[i];
  self.set_layer(layer, w);
}

void set_layer_steps(asa::LanguageModel& self, int layer, const std::vector<Weights>& norms,
                     const std::vector<Steps>& steps, const std::vector<Weights>& scales,
                     const std::vector<Weights>& biases) {
  std::vector<size_t> counts;
  const auto sizes = sizes_of(self.shape());
  for (const Sizes& size : sizes) {
    counts.push_back(size.out * asa::chunks_of(asa::Precision::int8, static_cast<int>(size.in)));
  }
  const auto p = pointers(scales, counts);
  asa::LanguageLayerWeights w = beside(self.shape(), norms, biases);
  const auto all = matrices(w);
  if (steps.size() != kMatrices) throw std::invalid_argument("wrong number of matrices");
  for (size_t i = 0; i < kMatrices; ++i) {
    if (steps[i].size() != sizes[i].out * sizes[i].in) {
      throw std::invalid_argument("matrix " + std::to_string(i) + " is of another shape");
    }
    all[i]->steps = steps[i].data();
    all[i]->scale = p[i];
  }
  self.set_layer(layer, w);
}

// batch: for each sequence its rows [n, width], and of how many of the last the state is wanted.
std::vector<Matrix> extend(asa::LanguageModel& self, const std::vector<asa::Past*>& pasts,
                           const std::vector<Mel>& rows, const std::vector<int>& wanted) {
  if (pasts.size() != rows.size() || pasts.size() != wanted.size()) {
    throw std::invalid_argument("as many sequences as rows and numbers of states");
  }
  std::vector<Matrix> hidden;
  std::vector<asa::Extension> batch;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!pasts[i]) throw std::invalid_argument("a sequence is missing");
    const size_t count = rows[i].shape(0), free = pasts[i]->capacity() - pasts[i]->length();
    if (rows[i].shape(1) != static_cast<size_t>(self.shape().width) || count > free) {
      throw std::invalid_argument(std::to_string(count) + " rows of width " +
                                  std::to_string(rows[i].shape(1)) + " do not fit " +
                                  std::to_string(free) + " free positions of width " +
                                  std::to_string(self.shape().width));
    }
    if (wanted[i] < 0 || static_cast<size_t>(wanted[i]) > count) {
      throw std::invalid_argument("no more hidden states than rows");
    }
    hidden.push_back(new_matrix(wanted[i], self.shape().width));
    batch.push_back(
        {pasts[i], rows[i].data(), static_cast<int>(count), wanted[i], hidden.back().data()});
  }
  nb::gil_scoped_release release;
  self.extend(batch);
  return hidden;
}

size_t state_size(const asa::LanguageModelShape& s, size_t positions) {
  return 2 * size_t(s.layers) * s.kv_heads * s.head_width * positions;
}

}  // namespace

void bind_language_model(nb::module_& m) {
  using asa::LanguageModel;
  using asa::Past;
  nb::class_<LanguageModel> model(m, "LanguageModel");
  model
      .def(
          "__init__",
          [](LanguageModel* self, int width, int layers, int heads, int kv_heads, int head_width,
             int inner, int rotated, int positions, float epsilon, const std::string& precision,
             int threads) {
            new (self) LanguageModel(
                {width, layers, heads, kv_heads, head_width, inner, rotated, positions, epsilon},
                precision_named(precision), threads);
          },
          "width"_a, "layers"_a, "heads"_a, "kv_heads"_a, "head_width"_a, "inner"_a, "rotated"_a,
          "positions"_a, "epsilon"_a, "precision"_a, "threads"_a)
      .def_prop_ro("threads", &LanguageModel::threads)
      .def("set_layer", &set_layer, "layer"_a, "norms"_a, "weights"_a, "biases"_a)
      .def("set_layer_steps", &set_layer_steps, "layer"_a, "norms"_a, "steps"_a, "scales"_a,
           "biases"_a)
      .def(
          "set_closing",
          [](LanguageModel& self, const std::vector<Weights>& tensors) {
            const auto& s = self.shape();
            const size_t angles = size_t(s.positions) * (s.rotated / 2);
            const auto p = pointers(tensors, {size_t(s.width), angles, angles});
            self.set_closing(p[0], p[1], p[2]);
          },
          "tensors"_a)
      .def("extend", &extend, "pasts"_a, "rows"_a, "wanted"_a);
  bind_packed(model);
  nb::class_<Past>(m, "Past")
      .def(nb::init<const LanguageModel&, int>(), "model"_a, "capacity"_a, nb::keep_alive<1, 2>())
      .def_prop_ro("capacity", &Past::capacity)
      .def_prop_ro("length", &Past::length)
      .def("rewind", &Past::rewind, "length"_a)
      .def("begin_like", &Past::begin_like, "other"_a, "length"_a)
      .def("read",
           [](const Past& self) {
             const auto& s = self.model().shape();
             const size_t size = state_size(s, self.length());
             const Vector to = new_vector(size);
             self.read(to.data());
             return to;
           })
      .def(
          "write",
          [](Past& self, State state, int count) {
            if (count < 0 || state.size() != state_size(self.model().shape(), count)) {
              throw std::invalid_argument("the state is of another size");
            }
            self.write(state.data(), count);
          },
          "state"_a.noconvert(), "count"_a);
}
