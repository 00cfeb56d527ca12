// The speech of a recording: the detector alone, and with the filters and the gate around it.

#include <nanobind/stl/array.h>

#include <array>

#include "arrays.h"
#include "asa/isa.h"
#include "speech_front.h"
#include "speech_track.h"

namespace {

using State = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The weights stay where Python has them; the arrays are held.
class Voice {
 public:
  // tensors: those of VoiceWeights, in order.
  explicit Voice(std::vector<Weights> tensors) : tensors_(std::move(tensors)) {
    constexpr size_t width = asa::kVoiceWidth;
    std::vector<size_t> counts = {size_t(2) * asa::kVoiceBins * asa::kVoiceWindow};
    for (const auto& shape : asa::kVoiceShapes) {
      counts.push_back(size_t(shape.out) * asa::kVoiceTaps * shape.in);
    }
    for (const auto& shape : asa::kVoiceShapes) counts.push_back(shape.out);
    counts.insert(counts.end(), {4 * width * 2 * width, 4 * width, width, 1});
    const auto p = pointers(tensors_, counts);
    weights_ = {p[0], {p[1], p[2], p[3], p[4]}, {p[5], p[6], p[7], p[8]}, p[9], p[10], p[11],
                p[12]};
  }

  float run(Samples samples, State state) const {
    if (samples.size() != size_t(asa::kVoiceContext + asa::kVoiceFrame)) {
      throw std::invalid_argument("a frame and its context have 576 samples");
    }
    if (state.size() != size_t(2) * asa::kVoiceWidth) {
      throw std::invalid_argument("the state has 256 numbers");
    }
    nb::gil_scoped_release release;
    return asa::kernels().voice.run(weights_, samples.data(), state.data());
  }

  const asa::VoiceWeights& weights() const { return weights_; }

 private:
  std::vector<Weights> tensors_;
  asa::VoiceWeights weights_;
};

const asa::HighPass& high_pass() {
  static const asa::HighPass filters;
  return filters;
}

class Speech {
 public:
  // What is due, and of each frame how many it makes speech.
  using Heard = std::pair<Vector, Numbers>;

  Speech(const Voice& voice, bool as_is, bool level)
      : track_(high_pass(), voice.weights(), as_is), front_(level) {}

  Heard push(Samples samples) {
    return hear([&](const auto& take) { track_.push(samples.data(), samples.size(), take); });
  }

  Heard finish() {
    return hear([&](const auto& take) { track_.finish(take); }, true);
  }

  // Samples that must come, at least, before so many more are due.
  std::size_t missing(std::size_t samples) const { return track_.missing(front_.missing(samples)); }

  // From one on: where each begins in what is heard and in the recording, and how long it is.
  std::vector<std::array<std::size_t, 3>> kept(std::size_t first) const {
    std::vector<std::array<std::size_t, 3>> found;
    for (std::size_t i = first; i < front_.kept().size(); ++i) {
      const asa::Kept& stretch = front_.kept()[i];
      found.push_back({stretch.start, stretch.source, stretch.samples});
    }
    return found;
  }

  double speech_s() const { return front_.speech_s(); }
  std::size_t asked() const { return track_.asked(); }

 private:
  template <class Source>
  Heard hear(const Source& source, bool is_last = false) {
    std::vector<float> heard;
    std::vector<std::int32_t> speech;
    {
      nb::gil_scoped_release release;
      source(
          [&](asa::SpeechFrame frame) { speech.push_back(front_.push(std::move(frame), heard)); });
      if (is_last) front_.finish(heard);
    }
    const Vector samples = new_vector(heard.size());
    std::copy(heard.begin(), heard.end(), samples.data());
    const Numbers frames = new_numbers(speech.size());
    std::copy(speech.begin(), speech.end(), frames.data());
    return {samples, frames};
  }

  asa::SpeechTrack track_;
  asa::SpeechFront front_;
};

}  // namespace

void bind_speech(nb::module_& m) {
  nb::class_<Voice>(m, "Voice")
      .def(nb::init<std::vector<Weights>>(), "tensors"_a)
      .def("run", &Voice::run, "samples"_a.noconvert(), "state"_a.noconvert());
  nb::class_<Speech>(m, "Speech")
      .def(nb::init<const Voice&, bool, bool>(), "voice"_a, "as_is"_a, "level"_a,
           nb::keep_alive<1, 2>())
      .def("push", &Speech::push, "samples"_a.noconvert())
      .def("finish", &Speech::finish)
      .def("missing", &Speech::missing, "samples"_a)
      .def("kept", &Speech::kept, "first"_a)
      .def_prop_ro("speech_s", &Speech::speech_s)
      .def_prop_ro("asked", &Speech::asked);
  m.def(
      "high_pass",
      [](nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu> source) {
        if (source.size() != size_t(2) * asa::kFilterBlock) {
          throw std::invalid_argument("two blocks have 4096 samples");
        }
        std::vector<double> high(asa::kFilterBlock), without_offset(asa::kFilterBlock);
        high_pass().run(source.data(), high.data(), without_offset.data());
        return std::pair(std::move(high), std::move(without_offset));
      },
      "source"_a.noconvert());
}
