// Names, types and documentation only: the work is in asa_kernels.

#include <algorithm>
#include <climits>

#include "arrays.h"
#include "asa/attend.h"
#include "asa/dense.h"
#include "asa/isa.h"
#include "asa/log_mel.h"
#include "asa/pitch.h"
#include "asa/viterbi.h"

namespace {

Matrix close_window(asa::LogMelWindow& window) {
  window.check_closable();
  Matrix out = new_matrix(window.n_mels(), window.frames());
  nb::gil_scoped_release release;
  window.close(out.data());
  return out;
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

std::pair<Numbers, double> viterbi(Mel log_probabilities, const std::vector<int32_t>& emits,
                                   const std::vector<bool>& optional, bool whole) {
  const size_t frames = log_probabilities.shape(0), classes = log_probabilities.shape(1);
  if (frames > INT_MAX || classes > INT_MAX || frames * emits.size() > (size_t{1} << 30)) {
    throw std::invalid_argument("frames times states are too many");
  }
  for (size_t i = 0; i < log_probabilities.size(); ++i) {
    const float value = log_probabilities.data()[i];
    if (value != value) throw std::invalid_argument("log_probabilities hold NaN");
  }
  asa::Path path;
  {
    nb::gil_scoped_release release;
    path =
        asa::viterbi(log_probabilities.data(), static_cast<int>(frames), static_cast<int>(classes),
                     emits, {optional.begin(), optional.end()}, whole);
  }
  Numbers states = new_numbers(path.states.size());
  std::copy(path.states.begin(), path.states.end(), states.data());
  return {states, path.score};
}

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
    std::vector<const float*> before;
    weights_ = head_weights(tensors_, shape_, {}, before);
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

Matrix multiply(const asa::Dense& dense, Mel rows) {
  if (rows.shape(1) != static_cast<size_t>(dense.in())) {
    throw std::invalid_argument("rows of " + std::to_string(rows.shape(1)) +
                                " numbers do not fit a matrix [" + std::to_string(dense.in()) +
                                ", " + std::to_string(dense.out()) + "]");
  }
  Matrix out = new_matrix(rows.shape(0), dense.out());
  nb::gil_scoped_release release;
  dense.run(rows.data(), rows.shape(0), out.data());
  return out;
}

}  // namespace

NB_MODULE(_kernels, m) {
  // An engine that lives until the interpreter ends is no leak, and no news to a user.
  nb::set_leak_warnings(false);
  m.doc() =
      "Compiled kernels; asa_engine.kernels holds the typed functions "
      "over them.";
  m.def("isa", [] { return asa::kernels().isa; });
  m.def("available_isas", &asa::available_isas);
  m.def("has_bf16_products", [] { return asa::kernels().gemm.bf16; });
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
        const asa::Precision named =
            precision == "int16" ? asa::Precision::int16 : precision_named(precision);
        nb::gil_scoped_release release;
        return asa::matrix_rate(named, seconds);
      },
      "precision"_a, "seconds"_a);
  m.def("copy_rate", &asa::copy_rate, "bytes"_a, "seconds"_a,
        nb::call_guard<nb::gil_scoped_release>());
  m.def("attend", &attend, "queries"_a.noconvert(), "keys"_a.noconvert(), "values"_a.noconvert(),
        "heads"_a, "length"_a, "reach"_a, "precision"_a);
  m.def("viterbi", &viterbi, "log_probabilities"_a.noconvert(), "emits"_a, "optional"_a, "whole"_a);
  m.def("pool", &pool, "frames"_a.noconvert(), "weight"_a.noconvert(), "bias"_a.noconvert());
  nb::class_<Head>(m, "Head")
      .def(nb::init<const std::vector<int>&, std::vector<Weights>>(), "sizes"_a, "tensors"_a)
      .def("run", &Head::run, "stats"_a.noconvert());
  nb::class_<asa::Dense>(m, "Dense")
      .def(
          "__init__",
          [](asa::Dense* self, Mel weight) {
            new (self) asa::Dense(weight.data(), weight.shape(0), weight.shape(1));
          },
          "weight"_a.noconvert())
      .def_prop_ro("out", &asa::Dense::out)
      .def("run", &multiply, "rows"_a.noconvert());
  nb::class_<asa::LogMelWindow>(m, "LogMelWindow")
      .def(nb::init<int, size_t>(), "n_mels"_a, "window_samples"_a)
      .def_prop_ro("n_mels", &asa::LogMelWindow::n_mels)
      .def_prop_ro("window_samples", &asa::LogMelWindow::window_samples)
      .def_prop_ro("samples", &asa::LogMelWindow::samples)
      .def("push", &push<asa::LogMelWindow>, "samples"_a.noconvert())
      .def("close", &close_window)
      .def("reset", &asa::LogMelWindow::reset);
  nb::class_<asa::PitchTracker>(m, "PitchTracker")
      .def(nb::init<>())
      .def("push", &push<asa::PitchTracker>, "samples"_a.noconvert())
      .def("finish", &finish_pitch);
  bind_encoder(m);
  bind_decoder(m);
  bind_language_model(m);
  bind_speech(m);
}
