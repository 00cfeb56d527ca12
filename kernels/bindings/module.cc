// Names, types and documentation only: the work is in asa_kernels.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <climits>

#include "asa/attend.h"
#include "asa/decoder.h"
#include "asa/encoder.h"
#include "asa/isa.h"
#include "asa/log_mel.h"
#include "asa/pitch.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Samples = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<nb::numpy, float, nb::ndim<2>, nb::c_contig>;

Matrix new_matrix(size_t rows, size_t columns) {
  float* data = new float[rows * columns];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return Matrix(data, {rows, columns}, owner);
}

Matrix close_window(asa::LogMelWindow& window) {
  window.check_closable();
  Matrix out = new_matrix(window.n_mels(), window.frames());
  nb::gil_scoped_release release;
  window.close(out.data());
  return out;
}

using Vector = nb::ndarray<nb::numpy, float, nb::ndim<1>, nb::c_contig>;

Vector new_vector(size_t size) {
  float* data = new float[size];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return Vector(data, {size}, owner);
}

std::pair<Vector, Vector> finish_pitch(asa::PitchTracker& tracker) {
  const size_t frames = tracker.frames();
  float* data[2];
  std::vector<Vector> tracks;
  for (float*& track : data) {
    track = new float[frames];
    nb::capsule owner(track, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    tracks.emplace_back(track, std::initializer_list<size_t>{frames}, owner);
  }
  nb::gil_scoped_release release;
  tracker.finish(data[0], data[1]);
  return {tracks[0], tracks[1]};
}

using Mel = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;

asa::Precision precision_named(const std::string& name) {
  if (name == "fp32") return asa::Precision::fp32;
  if (name == "bf16") return asa::Precision::bf16;
  if (name == "int8") return asa::Precision::int8;
  throw std::invalid_argument("precision is \"" + name + "\"; it must be fp32, bf16 or int8");
}

using Words = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::vector<asa::Precision> precisions_named(const std::vector<std::string>& names) {
  std::vector<asa::Precision> all;
  for (const std::string& name : names) all.push_back(precision_named(name));
  return all;
}

// Checks the number of tensors and of their elements, in the order given.
std::vector<const float*> pointers(const std::vector<Weights>& tensors,
                                   const std::vector<size_t>& sizes) {
  if (tensors.size() != sizes.size()) throw std::invalid_argument("wrong number of tensors");
  std::vector<const float*> data;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (tensors[i].size() != sizes[i]) {
      throw std::invalid_argument("tensor " + std::to_string(i) + " has " +
                                  std::to_string(tensors[i].size()) + " elements, not " +
                                  std::to_string(sizes[i]));
    }
    data.push_back(tensors[i].data());
  }
  return data;
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
    outputs.push_back(new_matrix((mel.shape(1) + 1) / 2, self.shape().width));
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

void set_decoder_layer(asa::Decoder& self, int layer, const std::vector<Weights>& tensors) {
  const size_t d = self.shape().width, inner = self.shape().inner;
  const auto p = pointers(
      tensors, {d,         d,     3 * d * d, 3 * d, d * d, d, d,         d,     d * d,     d,
                2 * d * d, 2 * d, d * d,     d,     d,     d, d * inner, inner, inner * d, d});
  self.set_layer(layer, {p[0],  p[1],  p[2],  p[3],  p[4],  p[5],  p[6],  p[7],  p[8],  p[9],
                         p[10], p[11], p[12], p[13], p[14], p[15], p[16], p[17], p[18], p[19]});
}

void start_decoder(asa::Decoder& self, Mel frames) {
  if (frames.shape(0) > INT_MAX || frames.shape(1) != static_cast<size_t>(self.shape().width)) {
    throw std::invalid_argument("frames must be [T, width]");
  }
  float nothing = 0.0f;
  for (size_t i = 0; i < frames.size(); ++i) nothing += frames.data()[i] - frames.data()[i];
  if (!(nothing == 0.0f)) throw std::invalid_argument("frames must be finite");
  nb::gil_scoped_release release;
  self.start(frames.data(), static_cast<int>(frames.shape(0)));
}

// Logits [1, tokens], and what was attended, [layers * heads, frames].
std::pair<Matrix, Matrix> step_decoder(asa::Decoder& self, int token) {
  const auto& s = self.shape();
  Matrix logits = new_matrix(1, s.tokens);
  Matrix attended = new_matrix(static_cast<size_t>(s.layers) * s.heads, self.frames());
  nb::gil_scoped_release release;
  self.step(token, logits.data(), attended.data());
  return {logits, attended};
}

Matrix attend(Mel queries, Mel keys, Mel values, int heads, int length, int reach,
              const std::string& precision) {
  const size_t frames = queries.shape(0), width = queries.shape(1);
  for (const Mel& other : {keys, values}) {
    if (other.shape(0) != frames || other.shape(1) != width) {
      throw std::invalid_argument("queries, keys and values must be of one shape");
    }
  }
  if (frames > INT_MAX || width > INT_MAX) throw std::invalid_argument("queries are too large");
  const asa::Precision named = precision_named(precision);
  Matrix out = new_matrix(frames, width);
  nb::gil_scoped_release release;
  asa::attend(named, {static_cast<int>(frames), heads, static_cast<int>(width), length, reach},
              queries.data(), keys.data(), values.data(), out.data());
  return out;
}

nb::ndarray<nb::numpy, float, nb::ndim<1>, nb::c_contig> pool(Mel frames, Mel weight,
                                                              Samples bias) {
  const size_t width = frames.shape(1), heads = weight.shape(0);
  if (frames.shape(0) < 1 || frames.shape(0) > (size_t{1} << 24)) {
    throw std::invalid_argument("frames must be [T, D] with T from 1 to 2^24");
  }
  if (weight.shape(1) != width || bias.size() != heads) {
    throw std::invalid_argument("attention weight must be [H, D] and bias [H]");
  }
  const size_t size = 1 + 2 * width + heads * (1 + width);
  float* stats = new float[size];
  nb::capsule owner(stats, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  {
    nb::gil_scoped_release release;
    asa::kernels().pool.pool(frames.data(), static_cast<int>(frames.shape(0)),
                             static_cast<int>(width), weight.data(), bias.data(),
                             static_cast<int>(heads), stats);
  }
  return {stats, {size}, owner};
}

// The weights stay where Python has them; the arrays are held.
class Head {
 public:
  // sizes: those of HeadShape, in order; tensors: those of HeadWeights, in order, the last seven
  // only where there are centres.
  Head(const std::vector<int>& sizes, std::vector<Weights> tensors) : tensors_(std::move(tensors)) {
    if (sizes.size() != 10) throw std::invalid_argument("a head has 10 sizes");
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (sizes[i] < (i < 7 ? 1 : 0) || sizes[i] > 16384) {
        throw std::invalid_argument("not the shape of a head");
      }
    }
    shape_ = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4],
              sizes[5], sizes[6], sizes[7], sizes[8], sizes[9]};
    const auto& s = shape_;
    const size_t width = s.width, pooled = s.pooled(), prior = s.prior_width, levels = s.levels;
    const size_t embedding = s.embedding, hidden = s.hidden, aspects = s.aspects;
    const size_t place = s.place, centres = s.centres;
    std::vector<size_t> counts = {width,
                                  width,
                                  prior * width,
                                  prior,
                                  levels * prior,
                                  levels,
                                  embedding * levels,
                                  embedding,
                                  pooled,
                                  pooled,
                                  hidden * s.features(),
                                  hidden,
                                  aspects * hidden,
                                  aspects,
                                  aspects,
                                  aspects};
    if (centres) {
      counts.insert(counts.end(), {aspects, place * 2 * s.sums(), place, 1, centres * (place + 1),
                                   aspects * centres, aspects});
    }
    auto p = pointers(tensors_, counts);
    p.resize(23);
    weights_ = {p[0],  p[1],  p[2],  p[3],  p[4],  p[5],  p[6],  p[7],  p[8],  p[9],  p[10], p[11],
                p[12], p[13], p[14], p[15], p[16], p[17], p[18], p[19], p[20], p[21], p[22]};
  }

  std::pair<Vector, Vector> run(Samples stats) const {
    if (stats.size() != static_cast<size_t>(shape_.stats())) {
      throw std::invalid_argument("stats has " + std::to_string(stats.size()) +
                                  " numbers; this head takes " + std::to_string(shape_.stats()));
    }
    const Vector scores = new_vector(shape_.aspects), prior = new_vector(shape_.levels);
    nb::gil_scoped_release release;
    std::vector<double> scratch(asa::head_scratch(shape_));
    asa::kernels().head.run(shape_, weights_, stats.data(), scratch.data(), scores.data(),
                            prior.data());
    return {scores, prior};
  }

 private:
  std::vector<Weights> tensors_;
  asa::HeadShape shape_;
  asa::HeadWeights weights_;
};

}  // namespace

NB_MODULE(_kernels, m) {
  // An engine that lives until the interpreter ends is no leak, and no news to a user.
  nb::set_leak_warnings(false);
  m.doc() =
      "Compiled kernels; asa_engine.kernels holds the typed functions "
      "over them.";
  m.def("isa", [] { return asa::kernels().isa; });
  m.def("available_isas", &asa::available_isas);
  m.def(
      "log_mel",
      [](Samples samples, int n_mels) {
        asa::check_log_mel(n_mels, samples.data(), samples.size());
        Matrix out = new_matrix(n_mels, samples.size() / asa::kHop);
        nb::gil_scoped_release release;
        asa::log_mel(n_mels, samples.data(), samples.size(), out.data());
        return out;
      },
      "samples"_a.noconvert(), "n_mels"_a);
  m.def(
      "matrix_rate",
      [](const std::string& precision, double seconds) {
        const asa::Precision named = precision_named(precision);
        nb::gil_scoped_release release;
        return asa::matrix_rate(named, seconds);
      },
      "precision"_a, "seconds"_a);
  m.def("copy_rate", &asa::copy_rate, "bytes"_a, "seconds"_a,
        nb::call_guard<nb::gil_scoped_release>());
  m.def("attend", &attend, "queries"_a.noconvert(), "keys"_a.noconvert(), "values"_a.noconvert(),
        "heads"_a, "length"_a, "reach"_a, "precision"_a);
  m.def("pool", &pool, "frames"_a.noconvert(), "weight"_a.noconvert(), "bias"_a.noconvert());
  nb::class_<Head>(m, "Head")
      .def(nb::init<const std::vector<int>&, std::vector<Weights>>(), "sizes"_a, "tensors"_a)
      .def("run", &Head::run, "stats"_a.noconvert());
  nb::class_<asa::LogMelWindow>(m, "LogMelWindow")
      .def(nb::init<int, size_t>(), "n_mels"_a, "window_samples"_a)
      .def_prop_ro("n_mels", &asa::LogMelWindow::n_mels)
      .def_prop_ro("window_samples", &asa::LogMelWindow::window_samples)
      .def_prop_ro("samples", &asa::LogMelWindow::samples)
      .def(
          "push",
          [](asa::LogMelWindow& self, Samples samples) {
            nb::gil_scoped_release release;
            self.push(samples.data(), samples.size());
          },
          "samples"_a.noconvert())
      .def("close", &close_window)
      .def("reset", &asa::LogMelWindow::reset);
  nb::class_<asa::PitchTracker>(m, "PitchTracker")
      .def(nb::init<>())
      .def(
          "push",
          [](asa::PitchTracker& self, Samples samples) {
            nb::gil_scoped_release release;
            self.push(samples.data(), samples.size());
          },
          "samples"_a.noconvert())
      .def("finish", &finish_pitch);
  nb::class_<asa::Encoder>(m, "Encoder")
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
      .def(
          "set_final_norm",
          [](asa::Encoder& self, const std::vector<Weights>& tensors) {
            const size_t width = self.shape().width;
            const auto p = pointers(tensors, {width, width});
            self.set_final_norm(p[0], p[1]);
          },
          "tensors"_a)
      .def_prop_ro("packed_words", &asa::Encoder::packed_words)
      .def("packed",
           [](const asa::Encoder& self) {
             const asa::Encoder::Packed packed = self.packed();
             return nb::ndarray<nb::numpy, const int32_t, nb::ndim<1>>(packed.words, {packed.count},
                                                                       nb::find(self));
           })
      .def(
          "adopt",
          [](asa::Encoder& self, Words words) { self.adopt({words.data(), words.size()}); },
          "words"_a.noconvert(), nb::keep_alive<1, 2>())
      .def("encode", &encode, "mels"_a, "layer_weights"_a, "moments"_a)
      .def("record", &asa::Encoder::record, "on"_a)
      .def("take_laps", &take_laps);
  nb::class_<asa::Decoder>(m, "Decoder")
      .def(
          "__init__",
          [](asa::Decoder* self, int width, int heads, int inner, int layers, int tokens,
             int positions, const std::string& precision) {
            new (self) asa::Decoder({width, heads, inner, layers, tokens, positions},
                                    precision_named(precision));
          },
          "width"_a, "heads"_a, "inner"_a, "layers"_a, "tokens"_a, "positions"_a, "precision"_a)
      .def(
          "set_embeddings",
          [](asa::Decoder& self, const std::vector<Weights>& tensors) {
            const size_t width = self.shape().width, tokens = self.shape().tokens;
            const auto p = pointers(tensors, {tokens * width, self.shape().positions * width});
            self.set_embeddings(p[0], p[1]);
          },
          "tensors"_a)
      .def("set_layer", &set_decoder_layer, "layer"_a, "tensors"_a)
      .def(
          "set_final_norm",
          [](asa::Decoder& self, const std::vector<Weights>& tensors) {
            const size_t width = self.shape().width;
            const auto p = pointers(tensors, {width, width});
            self.set_final_norm(p[0], p[1]);
          },
          "tensors"_a)
      .def("start", &start_decoder, "frames"_a.noconvert())
      .def("step", &step_decoder, "token"_a);
}
