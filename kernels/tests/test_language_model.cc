// The causal language model against plain loops in double; what must not change a bit.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "asa/language_model.h"
#include "checks.h"

namespace {

using namespace asa::tests;
using asa::Past;

struct Layer {
  std::vector<float> norm1, norm2, q, k, v, o, gate, up, down, q_bias, k_bias, v_bias;
};

// Weights of a small model, and what it must compute.
class Plain {
 public:
  Plain(const asa::LanguageModelShape& shape, bool biases) : s(shape) {
    unsigned seed = 100;
    const auto weight = [&](int out, int in) {
      return noise(std::size_t(out) * in, 1 / std::sqrt(float(in)), ++seed);
    };
    const auto norm = [&] {
      auto values = noise(s.width, 0.3f, ++seed);
      for (float& value : values) value += 1;
      return values;
    };
    const int q = s.heads * s.head_width, kv = s.kv_heads * s.head_width;
    for (int l = 0; l < s.layers; ++l) {
      layers.push_back({norm(),
                        norm(),
                        weight(q, s.width),
                        weight(kv, s.width),
                        weight(kv, s.width),
                        weight(s.width, q),
                        weight(s.inner, s.width),
                        weight(s.inner, s.width),
                        weight(s.width, s.inner),
                        {},
                        {},
                        {}});
      if (!biases) continue;
      layers.back().q_bias = weight(q, 1);
      layers.back().k_bias = weight(kv, 1);
      layers.back().v_bias = weight(kv, 1);
    }
    closing = norm();
    const int half = s.rotated / 2;
    for (int p = 0; p < s.positions; ++p) {
      for (int i = 0; i < half; ++i) {
        const double angle = p * std::pow(10000.0, -double(i) / half);
        cosines.push_back(float(std::cos(angle)));
        sines.push_back(float(std::sin(angle)));
      }
    }
  }

  void give(asa::LanguageModel& model) const {
    const auto bias = [](const std::vector<float>& b) { return b.empty() ? nullptr : b.data(); };
    const auto matrix = [&](const std::vector<float>& w) {
      return asa::Matrix{.weight = w.data()};
    };
    for (int l = 0; l < s.layers; ++l) {
      const Layer& at = layers[l];
      asa::LanguageLayerWeights w{at.norm1.data(), at.norm2.data(), matrix(at.q),
                                  matrix(at.k),    matrix(at.v),    matrix(at.o),
                                  matrix(at.gate), matrix(at.up),   matrix(at.down)};
      w.q.bias = bias(at.q_bias);
      w.k.bias = bias(at.k_bias);
      w.v.bias = bias(at.v_bias);
      model.set_layer(l, w);
    }
    model.set_closing(closing.data(), cosines.data(), sines.data());
  }

  Matrix run(const std::vector<float>& embeddings) const {
    const int rows = int(embeddings.size()) / s.width, hw = s.head_width;
    Matrix x(embeddings.begin(), embeddings.end());
    for (const Layer& at : layers) {
      const Matrix normal = norm(x, at.norm1);
      Matrix q = times(normal, at.q, at.q_bias, s.width),
             k = times(normal, at.k, at.k_bias, s.width);
      const Matrix v = times(normal, at.v, at.v_bias, s.width);
      turn(q, s.heads);
      turn(k, s.kv_heads);
      Matrix mixed(std::size_t(rows) * s.heads * hw);
      for (int r = 0; r < rows; ++r) {
        for (int h = 0; h < s.heads; ++h) {
          const int from = h / (s.heads / s.kv_heads);
          double total = 0;
          std::vector<double> sum(hw);
          for (int c = 0; c <= r; ++c) {
            double score = 0;
            for (int i = 0; i < hw; ++i) {
              score += q[(r * s.heads + h) * hw + i] * k[(c * s.kv_heads + from) * hw + i];
            }
            const double share = std::exp(score / std::sqrt(double(hw)));
            total += share;
            for (int i = 0; i < hw; ++i) sum[i] += share * v[(c * s.kv_heads + from) * hw + i];
          }
          for (int i = 0; i < hw; ++i) mixed[(r * s.heads + h) * hw + i] = sum[i] / total;
        }
      }
      add(x, times(mixed, at.o, {}, s.heads * hw));
      const Matrix after = norm(x, at.norm2);
      Matrix inner = times(after, at.gate, {}, s.width);
      const Matrix up = times(after, at.up, {}, s.width);
      for (std::size_t i = 0; i < inner.size(); ++i) inner[i] *= up[i] / (1 + std::exp(-inner[i]));
      add(x, times(inner, at.down, {}, s.inner));
    }
    return norm(x, closing);
  }

  asa::LanguageModelShape s;

 private:
  static void add(Matrix& to, const Matrix& y) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += y[i];
  }
  Matrix norm(const Matrix& x, const std::vector<float>& gamma) const {
    Matrix y(x);
    for (std::size_t row = 0; row < x.size(); row += s.width) {
      double squares = 0;
      for (int i = 0; i < s.width; ++i) squares += x[row + i] * x[row + i];
      for (int i = 0; i < s.width; ++i) {
        y[row + i] *= gamma[i] / std::sqrt(squares / s.width + s.epsilon);
      }
    }
    return y;
  }
  static Matrix times(const Matrix& x, const std::vector<float>& w, const std::vector<float>& bias,
                      int in) {
    const std::size_t rows = x.size() / in, out = w.size() / in;
    Matrix y(rows * out);
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t o = 0; o < out; ++o) {
        double sum = bias.empty() ? 0 : bias[o];
        for (int i = 0; i < in; ++i) sum += x[r * in + i] * w[o * in + i];
        y[r * out + o] = sum;
      }
    }
    return y;
  }
  void turn(Matrix& x, int heads) const {
    const int half = s.rotated / 2, rows = int(x.size()) / (heads * s.head_width);
    for (int r = 0; r < rows; ++r) {
      for (int h = 0; h < heads; ++h) {
        double* at = x.data() + (std::size_t(r) * heads + h) * s.head_width;
        for (int i = 0; i < half; ++i) {
          const double a = at[i], b = at[half + i];
          const double c = cosines[r * half + i], n = sines[r * half + i];
          at[i] = a * c - b * n;
          at[half + i] = b * c + a * n;
        }
      }
    }
  }

  std::vector<Layer> layers;
  std::vector<float> closing, cosines, sines;
};

// Runs rows in pieces of these sizes; all hidden states.
std::vector<float> run(asa::LanguageModel& model, const std::vector<float>& rows,
                       const std::vector<int>& pieces) {
  const int width = model.shape().width;
  std::vector<float> hidden(rows.size());
  Past past(model, int(rows.size()) / width);
  std::size_t at = 0;
  for (const int count : pieces) {
    model.extend({{&past, rows.data() + at, count, count, hidden.data() + at}});
    at += std::size_t(count) * width;
  }
  check(at == rows.size() && past.length() == past.capacity(), "all rows were run");
  return hidden;
}

constexpr asa::LanguageModelShape kShapes[] = {{.width = 72,
                                                .layers = 2,
                                                .heads = 6,
                                                .kv_heads = 2,
                                                .head_width = 16,
                                                .inner = 200,
                                                .rotated = 16,
                                                .positions = 400,
                                                .epsilon = 1e-5f},
                                               {.width = 160,
                                                .layers = 2,
                                                .heads = 4,
                                                .kv_heads = 4,
                                                .head_width = 48,
                                                .inner = 136,
                                                .rotated = 32,
                                                .positions = 300,
                                                .epsilon = 1e-6f}};

// Rounding of both factors of every product, through two layers: fp32 sums differ in order only.
double tolerance(Precision precision) {
  return precision == Precision::fp32 ? 1e-5 : precision == Precision::bf16 ? 1.5e-2 : 3e-2;
}

void test_hidden(const asa::Kernels& k) {
  for (const auto& shape : kShapes) {
    const bool biases = shape.width == 72;
    const Plain plain(shape, biases);
    const auto rows = noise(std::size_t(37) * shape.width, 1.0f, 7);
    const Matrix expected = plain.run(rows);
    for (const Precision precision : {Precision::fp32, Precision::bf16, Precision::int8}) {
      asa::LanguageModel model(shape, precision, 2, k);
      plain.give(model);
      const double error = relative_error(run(model, rows, {37}), expected);
      check(error < tolerance(precision),
            std::string(k.isa) + " " + name_of(precision) + " error " + std::to_string(error));
    }
  }
}

// Any cut, any number of threads, any company, and weights adopted: one result.
void test_same_bits(const asa::Kernels& k) {
  const auto& shape = kShapes[0];
  const Plain plain(shape, true);
  const int width = shape.width, count = 300;  // more than one pass takes
  auto rows = noise(std::size_t(count) * width, 1.0f, 8);
  for (const Precision precision : {Precision::fp32, Precision::int8}) {
    const std::string what = std::string(k.isa) + " " + name_of(precision) + " ";
    asa::LanguageModel one(shape, precision, 1, k), three(shape, precision, 3, k);
    plain.give(one);
    three.adopt(one.packed());
    const auto whole = run(one, rows, {count});
    check(run(three, rows, {count}) == whole, what + "threads");
    check(run(one, rows, {1, 2, 60, 13, 1, 0, 223}) == whole, what + "pieces");

    // Beside a sequence of another length and one of NaN; the last states only.
    const std::vector<float> bad(std::size_t(9) * width, std::numeric_limits<float>::quiet_NaN());
    Past past(three, count), other(three, 20), spoilt(three, 9);
    std::vector<float> last(std::size_t(2) * width), short_one(std::size_t(20) * width);
    three.extend(
        {{&spoilt, bad.data(), 9, 0, nullptr}, {&past, rows.data(), count - 20, 0, nullptr}});
    three.extend({{&other, rows.data(), 20, 20, short_one.data()},
                  {&past, rows.data() + std::size_t(count - 20) * width, 20, 2, last.data()}});
    check(std::equal(last.begin(), last.end(), whole.end() - 2 * width), what + "company");
    check(std::equal(short_one.begin(), short_one.end(), whole.begin()), what + "two in a pass");

    // A beginning that is copied or written, and a sequence that went back.
    Past fork(three, count), copy(three, count);
    fork.begin_like(past, 100);
    fork.rewind(40);
    std::vector<float> state(std::size_t(2) * shape.layers * shape.kv_heads * shape.head_width *
                             40);
    fork.read(state.data());
    copy.write(state.data(), 40);
    for (Past* begun : {&fork, &copy}) {
      std::vector<float> rest(std::size_t(60) * width);
      three.extend({{begun, rows.data() + std::size_t(40) * width, 60, 60, rest.data()}});
      check(std::equal(rest.begin(), rest.end(), whole.begin() + 40 * width), what + "beginning");
    }
  }
}

// A score that grows past float32's range after its row's first keys is not lost, and the rows
// beside it keep their bits.
void test_growing_scores(const asa::Kernels& k) {
  asa::LanguageModelShape shape = kShapes[0];
  shape.layers = 1;
  const Plain plain(shape, false);
  const int width = shape.width, count = 60;
  auto rows = noise(std::size_t(count) * width, 1.0f, 9);
  asa::LanguageModel model(shape, Precision::fp32, 1, k);
  // Queries and keys two hundred times their size: scores of thousands.
  std::vector<float> big(width, 14.0f), ones(width, 1.0f);
  const int q = shape.heads * shape.head_width, kv = shape.kv_heads * shape.head_width;
  const auto weight = [&](int out, int in, unsigned seed) {
    return noise(std::size_t(out) * in, 1 / std::sqrt(float(in)), seed);
  };
  const auto wq = weight(q, width, 1), wk = weight(kv, width, 2), wv = weight(kv, width, 3);
  const auto wo = weight(width, q, 4), gate = weight(shape.inner, width, 5);
  const auto down = weight(width, shape.inner, 6);
  const auto matrix = [](const std::vector<float>& w) { return asa::Matrix{.weight = w.data()}; };
  model.set_layer(0, {big.data(), ones.data(), matrix(wq), matrix(wk), matrix(wv), matrix(wo),
                      matrix(gate), matrix(gate), matrix(down)});
  const std::vector<float> cosines(std::size_t(shape.positions) * 8, 1.0f);
  const std::vector<float> sines(cosines.size());
  model.set_closing(ones.data(), cosines.data(), sines.data());
  const auto whole = run(model, rows, {count});
  check(run(model, rows, std::vector<int>(count, 1)) == whole, std::string(k.isa) + " growing");
  for (const float value : whole) check(std::isfinite(value), "growing scores are finite");
}

void test_refusals() {
  const auto refused = [](auto call) {
    try {
      call();
    } catch (const std::logic_error&) {  // or std::invalid_argument, which is one
      return true;
    }
    return false;
  };
  const auto& shape = kShapes[0];
  asa::LanguageModel model(shape, Precision::fp32, 1), other(shape, Precision::fp32, 1);
  const std::vector<float> rows(std::size_t(4) * shape.width);
  Past past(model, 3);
  check(refused([&] { model.extend({{&past, rows.data(), 1, 0, nullptr}}); }), "no weights");
  Plain(shape, false).give(model);
  check(refused([&] { model.extend({{&past, rows.data(), 4, 0, nullptr}}); }), "no room");
  check(refused([&] { model.extend({{&past, rows.data(), 1, 2, nullptr}}); }), "too many states");
  check(refused([&] {
          model.extend({{&past, rows.data(), 1, 0, nullptr}, {&past, rows.data(), 1, 0, nullptr}});
        }),
        "twice");
  check(refused([&] { other.extend({{&past, rows.data(), 1, 0, nullptr}}); }), "another's");
  check(refused([&] { past.rewind(1); }), "rewind ahead");
  check(refused([&] { Past(model, shape.positions + 1); }), "too long");
  asa::LanguageModelShape odd = shape;
  odd.kv_heads = 4;
  check(refused([&] { asa::LanguageModel(odd, Precision::fp32, 1); }), "heads that do not divide");
}

}  // namespace

int main() {
  on_every_isa([](const asa::Kernels& k) {
    test_hidden(k);
    test_same_bits(k);
    test_growing_scores(k);
  });
  test_refusals();
  return result();
}
