#include "asa/decoder.h"

#include <algorithm>
#include <climits>

#include "arrays.h"

namespace {

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

// In the order of asa::Forced.
nb::tuple force(asa::Decoder& self, const std::vector<int>& tokens, int prompt,
                const std::vector<int>& heads) {
  const size_t most = tokens.size(), before = std::max(prompt, 0);
  const size_t positions = self.shape().positions;
  // What is impossible is for the decoder to refuse, not worth any memory.
  const size_t rows = before < most && most <= positions + 1 ? most - before : 0;
  const Vector own = new_vector(rows), best = new_vector(rows), entropy = new_vector(rows);
  const Vector spread = new_vector(rows), peak = new_vector(rows);
  const Numbers other = new_numbers(rows), rank = new_numbers(rows);
  const Matrix attended = new_matrix(rows, self.frames());
  const Matrix states = new_matrix(rows, self.shape().width);
  {
    nb::gil_scoped_release release;
    self.force(tokens, prompt, heads,
               {own.data(), best.data(), other.data(), rank.data(), entropy.data(), attended.data(),
                spread.data(), peak.data(), states.data()});
  }
  return nb::make_tuple(own, best, other, rank, entropy, attended, spread, peak, states);
}

}  // namespace

void bind_decoder(nb::module_& m) {
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
          "set_tokens",
          [](asa::Decoder& self, int first, Mel embeddings) {
            const size_t most = self.shape().tokens, width = self.shape().width;
            if (embeddings.shape(0) > most || embeddings.shape(1) != width) {
              throw std::invalid_argument("embeddings must be [n, width]");
            }
            self.set_tokens(first, embeddings.data(), static_cast<int>(embeddings.shape(0)));
          },
          "first"_a, "embeddings"_a)
      .def(
          "set_positions",
          [](asa::Decoder& self, const Weights& positions) {
            const size_t width = self.shape().width, count = self.shape().positions;
            self.set_positions(pointers({positions}, {count * width})[0]);
          },
          "positions"_a)
      .def("set_layer", &set_decoder_layer, "layer"_a, "tensors"_a)
      .def("set_final_norm", &set_final_norm<asa::Decoder>, "tensors"_a)
      .def("start", &start_decoder, "frames"_a.noconvert())
      .def("step", &step_decoder, "token"_a)
      .def("force", &force, "tokens"_a, "prompt"_a, "heads"_a);
}
