// Names, types and sizes only: the work is in asa_cuda, or in no_cuda where there is none.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <climits>
#include <optional>
#include <tuple>

#include "asa/cuda/model.h"
#include "tensors.h"

using namespace nb::literals;

namespace {

using asa::cuda::Batch;
using asa::cuda::Limits;
using asa::cuda::Model;
using asa::cuda::ModelShape;

using Sums = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Starts = nb::ndarray<const int, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Those of EncoderShape and of HeadShape, in order.
ModelShape shape_of(const std::vector<int>& e, const std::vector<int>& h) {
  if (e.size() != 6 || h.size() != 10) throw std::invalid_argument("6 and 10 sizes are needed");
  return {{e[0], e[1], e[2], e[3], e[4], e[5]},
          {h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], h[8], h[9]}};
}

asa::cuda::Format format_named(const std::string& name) {
  if (name == "bf16") return asa::cuda::Format::bf16;
  if (name == "fp16") return asa::cuda::Format::fp16;
  throw std::invalid_argument("precision is \"" + name + "\"; it must be bf16 or fp16");
}

void set_stem(Model& self, const std::vector<Weights>& tensors) {
  const auto& s = self.shape().encoder;
  const std::size_t width = s.width, mels = s.mels, positions = s.positions;
  const auto p =
      pointers(tensors, {width * mels * 3, width, width * width * 3, width, positions * width});
  self.set_stem({p[0], p[1], p[2], p[3], p[4]});
}

void set_layer(Model& self, int layer, const std::vector<Weights>& tensors) {
  const std::size_t d = self.shape().encoder.width, inner = self.shape().encoder.inner;
  const auto p = pointers(
      tensors, {d, d, d * d, d, d * d, d * d, d, d * d, d, d, d, d * inner, inner, inner * d, d});
  self.set_layer(layer, {p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11],
                         p[12], p[13], p[14]});
}

void set_final_norm(Model& self, const std::vector<Weights>& tensors) {
  const std::size_t width = self.shape().encoder.width;
  const auto p = pointers(tensors, {width, width});
  self.set_final_norm(p[0], p[1]);
}

// tensors: the attention's weight and bias, then those of HeadWeights, in order, the last seven
// only where there are centres.
void set_head(Model& self, const std::vector<Weights>& tensors,
              const std::vector<float>& layer_weights) {
  const asa::HeadShape& s = self.shape().head;
  const std::size_t width = s.width, heads = s.heads;
  std::vector<const float*> attention;
  const asa::HeadWeights weights = head_weights(tensors, s, {heads * width, heads}, attention);
  self.set_head(weights, attention[0], attention[1], layer_weights);
}

// A batch over arrays that Python holds; nothing is asked of the results yet.
Batch batch_of(const Model& self, const Weights& values, const Starts& starts) {
  const bool mels = values.ndim() == 2;
  if (values.ndim() < 1 || values.ndim() > 2 ||
      (mels && values.shape(1) != static_cast<std::size_t>(self.shape().encoder.mels))) {
    throw std::invalid_argument("a batch is samples [n] or log-mel frames [n, n_mels]");
  }
  if (starts.size() < 2) throw std::invalid_argument("starts must be [windows + 1]");
  Batch batch{values.data(), mels, {starts.data(), starts.data() + starts.size()}};
  for (std::size_t w = 0; w + 1 < starts.size(); ++w) {
    if (batch.starts[w + 1] < batch.starts[w]) {
      throw std::invalid_argument("starts must not descend");
    }
  }
  if (static_cast<std::size_t>(batch.starts.back()) != values.shape(0)) {
    throw std::invalid_argument("the last window must end where the values do");
  }
  return batch;
}

std::size_t stats_of(const Model& self) { return self.shape().head.stats(); }

std::tuple<Matrix, Matrix, Matrix, std::optional<Matrix>> encode(Model& self, Weights values,
                                                                 Starts starts,
                                                                 std::optional<Sums> sums,
                                                                 bool frames) {
  Batch batch = batch_of(self, values, starts);
  const std::size_t windows = starts.size() - 1, k = stats_of(self);
  if (sums && (sums->shape(0) != windows || sums->shape(1) != k)) {
    throw std::invalid_argument("sums must be [windows, " + std::to_string(k) + "]");
  }
  Matrix stats = new_matrix(windows, k), scores = new_matrix(windows, self.shape().head.aspects);
  Matrix prior = new_matrix(windows, self.shape().head.levels);
  std::optional<Matrix> mixed;
  if (frames) {
    std::size_t rows = 0;
    for (std::size_t w = 0; w < windows; ++w) {
      const std::size_t size = batch.starts[w + 1] - batch.starts[w];
      rows += ((batch.mels ? size : size / asa::kHop) + 1) / 2;
    }
    mixed = new_matrix(rows, self.shape().encoder.width);
    batch.frames = mixed->data();
  }
  batch.sums = sums ? sums->data() : nullptr;
  batch.stats = stats.data();
  batch.scores = scores.data();
  batch.prior = prior.data();
  {
    nb::gil_scoped_release release;
    self.encode(batch);
  }
  return {stats, scores, prior, mixed};
}

std::tuple<Matrix, Matrix> score(Model& self, Rows stats) {
  if (stats.shape(1) != stats_of(self) || stats.shape(0) > INT_MAX) {
    throw std::invalid_argument("stats must be [n, " + std::to_string(stats_of(self)) + "]");
  }
  Matrix scores = new_matrix(stats.shape(0), self.shape().head.aspects);
  Matrix prior = new_matrix(stats.shape(0), self.shape().head.levels);
  nb::gil_scoped_release release;
  self.score(stats.data(), static_cast<int>(stats.shape(0)), scores.data(), prior.data());
  return {scores, prior};
}

}  // namespace

NB_MODULE(_cuda, m) {
  nb::set_leak_warnings(false);
  m.doc() = "CUDA kernels; asa_engine.gpu.cuda holds the typed classes over them.";
#if defined(ASA_EMULATED)
  m.attr("emulated") = true;
#else
  m.attr("emulated") = false;
#endif
  nb::exception<asa::cuda::Unavailable>(m, "Unavailable", PyExc_RuntimeError);
  m.def("machine", [] {
    const asa::cuda::Machine found = asa::cuda::machine();
    return std::make_tuple(found.name, found.major, found.minor, found.driver, found.runtime,
                           found.total_bytes, found.free_bytes);
  });
  m.def(
      "need_bytes",
      [](const std::vector<int>& encoder, const std::vector<int>& head, int windows, int frames) {
        return Model::need_bytes(shape_of(encoder, head), {windows, frames});
      },
      "encoder"_a, "head"_a, "windows"_a, "frames"_a);
  nb::class_<Model>(m, "Model")
      .def(
          "__init__",
          [](Model* self, const std::vector<int>& encoder, const std::vector<int>& head,
             const std::string& precision, int windows, int frames) {
            new (self) Model(shape_of(encoder, head), format_named(precision), {windows, frames});
          },
          "encoder"_a, "head"_a, "precision"_a, "windows"_a, "frames"_a)
      .def("set_stem", &set_stem, "tensors"_a)
      .def("set_layer", &set_layer, "layer"_a, "tensors"_a)
      .def("set_final_norm", &set_final_norm, "tensors"_a)
      .def("set_head", &set_head, "tensors"_a, "layer_weights"_a)
      .def("encode", &encode, "values"_a.noconvert(), "starts"_a.noconvert(),
           "sums"_a.noconvert().none(), "frames"_a)
      .def("score", &score, "stats"_a.noconvert())
      .def(
          "time",
          [](Model& self, Weights values, Starts starts, int runs) {
            const Batch batch = batch_of(self, values, starts);
            nb::gil_scoped_release release;
            return self.time(batch, runs);
          },
          "values"_a.noconvert(), "starts"_a.noconvert(), "runs"_a);
}
