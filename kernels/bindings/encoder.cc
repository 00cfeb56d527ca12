#include "asa/encoder.h"

#include <algorithm>

#include "arrays.h"

namespace {

std::vector<asa::Precision> precisions_named(const std::vector<std::string>& names) {
  std::vector<asa::Precision> all;
  for (const std::string& name : names) all.push_back(precision_named(name));
  return all;
}

void set_stem(asa::Encoder& self, const std::vector<Weights>& tensors) {
  const auto& s = self.shape();
  const size_t width = s.width, mels = s.mels, positions = s.positions;
  const auto p =
      pointers(tensors, {width * mels * 3, width, width * width * 3, width, positions * width});
  self.set_stem({p[0], p[1], p[2], p[3], p[4]});
}

void set_layer(asa::Encoder& self, int layer, const std::vector<Weights>& tensors) {
  const size_t d = self.shape().width, inner = self.shape().inner;
  const auto p = pointers(
      tensors, {d, d, d * d, d, d * d, d * d, d, d * d, d, d, d, d * inner, inner, inner * d, d});
  self.set_layer(layer, {p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11],
                         p[12], p[13], p[14]});
}

std::pair<std::vector<Matrix>, std::vector<Matrix>> encode(asa::Encoder& self,
                                                           const std::vector<Mel>& mels,
                                                           const std::vector<float>& layer_weights,
                                                           bool moments) {
  std::vector<Matrix> outputs, sums;
  const size_t layers = static_cast<size_t>(self.shape().layers) + 1;
  const size_t sets = layer_weights.size() / layers;
  std::vector<asa::Sequence> batch;
  for (const Mel& mel : mels) {
    if (mel.shape(0) != static_cast<size_t>(self.shape().mels)) {
      throw std::invalid_argument("mel has " + std::to_string(mel.shape(0)) +
                                  " bins; this encoder takes " + std::to_string(self.shape().mels));
    }
    const size_t most = 2 * static_cast<size_t>(self.shape().positions);
    if (mel.shape(1) < 1 || mel.shape(1) > most) {
      throw std::invalid_argument("mel has " + std::to_string(mel.shape(1)) +
                                  " frames; this encoder takes 1 to " + std::to_string(most));
    }
    float nothing = 0.0f;
    for (size_t i = 0; i < mel.size(); ++i) nothing += mel.data()[i] - mel.data()[i];
    if (!(nothing == 0.0f)) throw std::invalid_argument("mel must be finite");
    outputs.push_back(new_matrix((mel.shape(1) + 1) / 2, sets * self.shape().width));
    batch.push_back({mel.data(), static_cast<int>(mel.shape(1)), outputs.back().data()});
    if (moments) {
      sums.push_back(new_matrix(2, layers * self.shape().width));
      batch.back().moments = sums.back().data();
    }
  }
  nb::gil_scoped_release release;
  self.encode(batch, layer_weights);
  return {std::move(outputs), std::move(sums)};
}

using Laps = nb::ndarray<nb::numpy, double, nb::ndim<2>, nb::c_contig>;

Laps take_laps(asa::Encoder& self) {
  constexpr size_t columns = 8;
  const std::vector<asa::Lap> laps = self.take_laps();
  double* data = new double[laps.size() * columns];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<double*>(p); });
  double* to = data;
  for (const asa::Lap& lap : laps) {
    for (double value : {double(lap.step), double(lap.layer), double(lap.precision),
                         double(lap.thread), lap.start, lap.end, lap.operations, lap.bytes}) {
      *to++ = value;
    }
  }
  return Laps(data, {laps.size(), columns}, owner);
}

}  // namespace

void bind_encoder(nb::module_& m) {
  nb::class_<asa::Encoder> encoder(m, "Encoder");
  encoder
      .def(
          "__init__",
          [](asa::Encoder* self, int mels, int width, int heads, int inner, int layers,
             int positions, const std::string& precision, int threads) {
            // An impossible number of layers is for the encoder to refuse.
            const int bounded = std::clamp(layers, 0, 1024);
            new (self)
                asa::Encoder({mels, width, heads, inner, layers, positions},
                             asa::layer_precisions(precision_named(precision), bounded), threads);
          },
          "mels"_a, "width"_a, "heads"_a, "inner"_a, "layers"_a, "positions"_a, "precision"_a,
          "threads"_a)
      .def(
          "__init__",
          [](asa::Encoder* self, int mels, int width, int heads, int inner, int layers,
             int positions, const std::vector<std::string>& precisions, int threads) {
            new (self) asa::Encoder({mels, width, heads, inner, layers, positions},
                                    precisions_named(precisions), threads);
          },
          "mels"_a, "width"_a, "heads"_a, "inner"_a, "layers"_a, "positions"_a, "precisions"_a,
          "threads"_a)
      .def_prop_ro("threads", &asa::Encoder::threads)
      .def("set_stem", &set_stem, "tensors"_a)
      .def("set_layer", &set_layer, "layer"_a, "tensors"_a)
      .def("set_final_norm", &set_final_norm<asa::Encoder>, "tensors"_a)
      .def("encode", &encode, "mels"_a, "layer_weights"_a, "moments"_a)
      .def("record", &asa::Encoder::record, "on"_a)
      .def("take_laps", &take_laps);
  bind_packed(encoder);
}
