// Every kernel of every instruction set this CPU has, on shapes that fill no tile, panel or group,
// against plain loops in double. Built with sanitizers (-DASA_SANITIZE=address,undefined) it also
// shows that none reads or writes where it should not.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "asa/buffer.h"
#include "checks.h"

namespace {

using namespace asa::tests;

struct Weights {
  Weights(const asa::Kernels& k, Precision precision, int in, int out)
      : in(in),
        out(asa::round_up(out, k.gemm.geometry.panel)),
        weight(noise(std::size_t(in) * this->out, 1.0f / std::sqrt(float(in)), 1)),
        bias(noise(this->out, 0.3f, 2)),
        panels(std::size_t(asa::words_of(precision, in)) * this->out),
        packed_bias(this->out),
        scale(std::size_t(asa::chunks_of(precision, in)) * this->out),
        sum(std::size_t(asa::chunks_of(precision, in)) * this->out) {
    linear = {precision,      in,           this->out, panels.ints(), packed_bias.floats(),
              scale.floats(), sum.floats(), true};
    k.gemm.pack(weight.data(), bias.data(), linear);
  }

  Matrix times(const std::vector<float>& x, int rows) const {
    Matrix y(std::size_t(rows) * out);
    for (int r = 0; r < rows; ++r) {
      for (int o = 0; o < out; ++o) {
        double total = bias[o];
        for (int i = 0; i < in; ++i) total += double(x[r * in + i]) * weight[o * in + i];
        y[r * out + o] = total;
      }
    }
    return y;
  }

  int in, out;
  std::vector<float> weight, bias;
  asa::Buffer panels, packed_bias, scale, sum;
  asa::Linear linear;
};

struct Input {
  Input(const asa::Kernels& k, Precision precision, int in, int rows)
      : tiles((rows + k.gemm.geometry.rows - 1) / k.gemm.geometry.rows),
        words(std::size_t(asa::chunks_of(precision, in)) * asa::kChunkWords * tiles *
              k.gemm.geometry.rows),
        scale(std::size_t(asa::chunks_of(precision, in)) * 2 * tiles * k.gemm.geometry.rows),
        rows{precision, in, words.ints(), scale.floats()} {}

  int tiles;
  asa::Buffer words, scale;
  asa::Rows rows;
};

void test_gemm(const asa::Kernels& k, Precision precision, int in, int out, int rows) {
  const std::string what = std::string(k.isa) + " gemm " + name_of(precision);
  const Weights w(k, precision, in, out);
  const auto x = noise(std::size_t(rows) * in, 1.0f, 3);
  // put_rows may read up to a whole group from the start of a row's last one.
  auto padded = x;
  padded.resize(x.size() + asa::kGroup);
  Input input(k, precision, in, rows);
  k.gemm.put_rows(padded.data(), in, rows, input.rows);
  const Matrix y = w.times(x, rows);

  auto sum = noise(std::size_t(rows) * w.out, 1.0f, 4);
  Matrix expected(y);
  for (std::size_t i = 0; i < y.size(); ++i) expected[i] += sum[i];
  k.gemm.add(input.rows, w.linear, 0, w.linear.out, rows, sum.data(), w.out);
  check(relative_error(sum, expected) < tolerance(precision), what + " add");

  const auto extra = noise(std::size_t(rows) * w.out, 1.0f, 5);
  for (std::size_t i = 0; i < y.size(); ++i) expected[i] = gelu(y[i]) + extra[i];
  std::vector<float> stored(y.size());
  k.gemm.gelu_store(input.rows, w.linear, rows, stored.data(), w.out, extra.data(), w.out);
  check(relative_error(stored, expected) < tolerance(precision), what + " gelu_store");

  // gelu_put feeds a second product, which is how it is used.
  const Weights next(k, precision, out, 40);
  Input hidden(k, precision, out, rows);
  std::vector<float> scratch(std::size_t(hidden.tiles) * k.gemm.geometry.rows * asa::kGroup);
  k.gemm.gelu_put(input.rows, w.linear, rows, hidden.rows, scratch.data());
  std::vector<float> activated(std::size_t(rows) * out);
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < out; ++o) activated[r * out + o] = float(gelu(y[r * w.out + o]));
  }
  std::vector<float> second(std::size_t(rows) * next.out);
  k.gemm.add(hidden.rows, next.linear, 0, next.linear.out, rows, second.data(), next.out);
  check(relative_error(second, next.times(activated, rows)) < 2 * tolerance(precision),
        what + " gelu_put");
}

// A row has the same bits however many rows stand in its tile.
void test_company(const asa::Kernels& k, Precision precision, int in) {
  const int most = k.gemm.geometry.rows + 1;
  const Weights w(k, precision, in, 40);
  auto x = noise(std::size_t(most) * in, 1.0f, 6);
  x.resize(x.size() + asa::kGroup);
  std::vector<float> all;
  for (int rows = most; rows > 0; --rows) {
    Input input(k, precision, in, rows);
    k.gemm.put_rows(x.data(), in, rows, input.rows);
    std::vector<float> y(std::size_t(rows) * w.out);
    k.gemm.store(input.rows, w.linear, 0, w.linear.out, rows, y.data(), w.out);
    if (all.empty()) all = y;
    check(std::equal(y.begin(), y.end(), all.begin()),
          std::string(k.isa) + " company of " + std::to_string(rows) + " " + name_of(precision));
  }
}

// Steps of any size times bytes of any size, at their largest and of both signs, are summed
// exactly: as integers, whether sums of pairs fit 16 bits or not. `paired` takes weights that
// pack() made.
void test_bytes(const asa::Kernels& k, int in, int rows, bool paired) {
  const std::string what = std::string(k.isa) + (paired ? " paired" : "") + " bytes";
  const int out = k.gemm.geometry.panel * 2, groups = asa::groups_of(in);
  const int panel = k.gemm.geometry.panel, words = asa::words_of(Precision::int8, in);
  std::vector<float> flat(std::size_t(in) * out);
  std::vector<std::int8_t> steps(flat.size());
  unsigned state = 7;
  const auto next = [&] { return state = state * 1664525u + 1013904223u, state >> 16; };
  for (std::size_t i = 0; i < steps.size(); ++i) {
    // The first outputs' are all the largest, those after them all the least.
    const int n = int(i / in);
    steps[i] = std::int8_t(n < 3 ? 127 : n < 6 ? -127 : int(next() % 255) - 127);
    flat[i] = float(steps[i]) + (n < 6 ? 0.0f : 0.25f);
  }
  asa::Buffer panels(std::size_t(words) * out), bias(out), scale(std::size_t(groups) * out),
      sum(std::size_t(groups) * out);
  const asa::Linear linear{Precision::int8, in,           out,   panels.ints(), bias.floats(),
                           scale.floats(),  sum.floats(), paired};
  const std::vector<float> ones(std::size_t(groups) * out, 1.0f);
  if (paired) {
    k.gemm.pack(flat.data(), nullptr, linear);
  } else {
    k.gemm.pack_steps(steps.data(), ones.data(), nullptr, linear);
  }
  // Rows of 0 and 255, as quantising gives them, with one step of each size between.
  std::vector<float> x(std::size_t(rows) * in + asa::kGroup);
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < in; ++i) x[r * in + i] = r == 0 ? 255.0f : float(next() % 256);
    for (int i = 0; i < in; i += asa::kGroup) x[r * in + i] = 255.0f;  // so that a step is 1
  }
  Input input(k, Precision::int8, in, rows);
  k.gemm.put_rows(x.data(), in, rows, input.rows);
  std::vector<float> y(std::size_t(rows) * out);
  k.gemm.store(input.rows, linear, 0, out, rows, y.data(), out);
  const auto* bytes = reinterpret_cast<const std::int8_t*>(panels.ints());
  for (int r = 0; r < rows; ++r) {
    for (int n = 0; n < out; ++n) {
      float expected = 0.0f;
      for (int g = 0; g < groups; ++g) {
        int total = 0;
        for (int i = g * asa::kGroup; i < std::min(in, (g + 1) * asa::kGroup); ++i) {
          const std::size_t word = (std::size_t(n / panel) * words + i / 4) * panel + n % panel;
          total += int(x[r * in + i]) * bytes[word * 4 + i % 4];
        }
        expected += float(total) * scale.floats()[g * out + n];
      }
      const float off = std::abs(y[r * out + n] - expected);
      check(paired ? off <= 1e-5f * std::abs(expected) + 1.0f : off == 0.0f, what);
    }
  }
}

// What is not a number in a row makes all its products so, at any precision, and no other row's.
void test_nan(const asa::Kernels& k, Precision precision) {
  const int in = 140, out = 40, rows = 5;
  const Weights w(k, precision, in, out), next(k, precision, out, 40);
  for (const float lost : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (const int place : {0, 77, 139}) {
      auto x = noise(std::size_t(rows) * in, 1.0f, 3);
      x[2 * in + place] = lost;
      x.resize(x.size() + asa::kGroup);
      Input input(k, precision, in, rows), hidden(k, precision, out, rows);
      k.gemm.put_rows(x.data(), in, rows, input.rows);
      std::vector<float> y(std::size_t(rows) * w.out), z(std::size_t(rows) * next.out);
      std::vector<float> scratch(std::size_t(hidden.tiles) * k.gemm.geometry.rows * asa::kGroup);
      k.gemm.store(input.rows, w.linear, 0, w.out, rows, y.data(), w.out);
      k.gemm.gelu_put(input.rows, w.linear, rows, hidden.rows, scratch.data());
      k.gemm.store(hidden.rows, next.linear, 0, next.out, rows, z.data(), next.out);
      for (int r = 0; r < rows; ++r) {
        for (int o = 0; o < out; ++o) {
          const bool ok = std::isfinite(y[r * w.out + o]) && std::isfinite(z[r * next.out + o]);
          const bool no = !std::isfinite(y[r * w.out + o]) && !std::isfinite(z[r * next.out + o]);
          check(r == 2 ? no : ok, std::string(k.isa) + " not a number " + name_of(precision));
        }
      }
    }
  }
}

void test_layer_norm(const asa::Kernels& k, int width, int rows) {
  const std::string what = std::string(k.isa) + " layer_norm";
  const auto x = noise(std::size_t(rows) * width, 3.0f, 6);
  const auto gamma = noise(width, 1.0f, 7), beta = noise(width, 1.0f, 8);
  std::vector<float> normal(x.size());
  for (int r = 0; r < rows; ++r) {
    double mean = 0, variance = 0;
    for (int i = 0; i < width; ++i) mean += x[r * width + i] / double(width);
    for (int i = 0; i < width; ++i) variance += std::pow(x[r * width + i] - mean, 2) / width;
    for (int i = 0; i < width; ++i) {
      normal[r * width + i] =
          float((x[r * width + i] - mean) / std::sqrt(variance + 1e-5) * gamma[i] + beta[i]);
    }
  }
  Matrix expected(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) expected[i] = 1.0 + 0.5 * normal[i] + 2.0 * x[i];
  std::vector<float> mixed(x.size(), 1.0f);
  k.layer_norm.mix(x.data(), width, rows, width, gamma.data(), beta.data(), 0.5f, mixed.data(),
                   width);
  k.layer_norm.add_scaled(x.data(), width, rows, width, 2.0f, mixed.data(), width);
  check(relative_error(mixed, expected) < 1e-5, what + " mix");

  const Weights w(k, Precision::fp32, width, 24);
  Input input(k, Precision::fp32, width, rows);
  std::vector<float> scratch(asa::round_up(width, asa::kGroup)), y(std::size_t(rows) * w.out);
  k.layer_norm.put(x.data(), width, rows, gamma.data(), beta.data(), input.rows, scratch.data());
  k.gemm.add(input.rows, w.linear, 0, w.linear.out, rows, y.data(), w.out);
  check(relative_error(y, w.times(normal, rows)) < 1e-5, what + " put");
}

// q_scale 30 makes scores of thousands: the shift taken from the first keys overflows.
void test_attention(const asa::Kernels& k, Precision precision, int length, float q_scale,
                    int reach = 1 << 30, bool bytes = false, int ahead = -1) {
  const std::string what = std::string(k.isa) + " attention " + name_of(precision) + " " +
                           std::to_string(length) + " reach " + std::to_string(reach) + " ahead " +
                           std::to_string(ahead) + (bytes ? " of bytes" : "");
  const int panel = k.gemm.geometry.panel, tile = k.gemm.geometry.rows;
  const int heads = 2, head = 2 * panel, all = heads * head;
  const int tiles = (length + tile - 1) / tile, rows = tiles * tile;
  const int panels = (rows + panel - 1) / panel, words = asa::words_of(precision, head);
  const Weights w(k, Precision::fp32, all, all);
  auto x = noise(std::size_t(rows) * all + asa::kGroup, q_scale, 9);
  Input input(k, Precision::fp32, all, rows);
  k.gemm.put_rows(x.data(), all, rows, input.rows);
  // A chunk of room that no query fills.
  const int query_words = tile * (heads * asa::chunks_of(precision, head) + 1) * asa::kChunkWords;
  asa::Buffer q(std::size_t(tiles) * query_words);
  asa::Buffer keys(std::size_t(panels) * panel * heads * words);
  asa::Buffer values(std::size_t(panels) * panel * heads * words);
  asa::Buffer query_scale(std::size_t(rows) * heads * 2), scratch(std::size_t(rows) * asa::kGroup);
  asa::Buffer key_scale(std::size_t(panels) * panel * heads * 2);
  asa::Buffer value_scale(std::size_t(panels) * panel * heads);
  const asa::Attention a{.precision = precision,
                         .heads = heads,
                         .head_width = head,
                         .length = length,
                         .queries = q.ints(),
                         .keys = keys.ints(),
                         .values = values.ints(),
                         .key_panels = panels,
                         .key_words = panels * panel / asa::inputs_per_word(precision),
                         .query_words = query_words,
                         .behind = reach,
                         .ahead = ahead < 0 ? reach : ahead,
                         .scores = bytes ? Precision::int8 : precision,
                         .query_scale = query_scale.floats(),
                         .key_scale = key_scale.floats(),
                         .value_scale = value_scale.floats(),
                         .scratch = scratch.floats()};
  k.gemm.queries(input.rows, w.linear, rows, a, 0);
  k.gemm.keys(input.rows, w.linear, rows, a, 0);
  k.gemm.values(input.rows, w.linear, rows, a, 0);
  std::vector<float> found(std::size_t(rows) * all);
  for (int t = 0; t < tiles; ++t) {
    for (int h = 0; h < heads; ++h) {
      k.attention.attend(a, t, h, found.data() + std::size_t(t) * tile * all + h * head, all);
    }
  }
  x.resize(std::size_t(rows) * all);
  const Matrix y = w.times(x, rows);  // queries, keys and values are the same rows here
  Matrix expected(std::size_t(length) * all);
  for (int r = 0; r < length; ++r) {
    for (int h = 0; h < heads; ++h) {
      std::vector<double> score(length);
      double top = -1e300, total = 0;
      for (int c = 0; c < length; ++c) {
        if (r - c > reach || c - r > (ahead < 0 ? reach : ahead)) score[c] = -1e30;
        for (int i = h * head; i < (h + 1) * head; ++i) score[c] += y[r * all + i] * y[c * all + i];
        top = std::max(top, score[c]);
      }
      for (double& s : score) total += s = std::exp2(s - top);
      for (int c = 0; c < length; ++c) {
        for (int i = h * head; i < (h + 1) * head; ++i) {
          expected[r * all + i] += score[c] / total * y[c * all + i];
        }
      }
    }
  }
  found.resize(expected.size());
  // Rounding a score of size s to bfloat16's 8 bits moves its weight by s / 2^9; scores here reach
  // tens where q_scale is small, and thousands (fp32 only) where it is large.
  // Bytes leave the queries and keys of a head 8 bits of their largest component.
  const bool exact = precision == Precision::fp32 && !bytes;
  // Integers of 16 bits leave them 13.
  const double bound = exact ? 2e-3 : precision == Precision::int16 ? 2e-2 : 2e-1;
  check(relative_error(found, expected) < bound, what);
}

}  // namespace

int main() {
  on_every_isa([](const asa::Kernels& k) {
    for (auto precision : {Precision::fp32, Precision::bf16, Precision::int8, Precision::int16}) {
      test_gemm(k, precision, 384, 384, 24);
      test_gemm(k, precision, 129, 70, 13);
      test_gemm(k, precision, 130, 33, 20);
      test_gemm(k, precision, 3, 1, 1);
      for (int in : {70, 384}) test_company(k, precision, in);
      test_nan(k, precision);
      check(k.peak.multiply(precision, 10) > 0, std::string(k.isa) + " peak");
    }
    for (int rows : {1, 2, 5, 13}) {
      for (int in : {128, 384, 1024}) {
        test_bytes(k, in, rows, false);
        test_bytes(k, in, rows, true);
      }
    }
    test_layer_norm(k, 384, 12);
    test_layer_norm(k, 61, 5);
    for (int length : {1, 7, 33, 49, 300, 1100}) {
      test_attention(k, Precision::fp32, length, 1.0f);
      test_attention(k, Precision::bf16, length, 0.5f);
      test_attention(k, Precision::int16, length, 0.5f);
      test_attention(k, Precision::fp32, length, 0.5f, 1 << 30, true);
      test_attention(k, Precision::bf16, length, 0.5f, 1 << 30, true);
    }
    test_attention(k, Precision::fp32, 300, 30.0f);
    test_attention(k, Precision::int16, 300, 3.0f);
    for (int reach : {0, 1, 31, 64, 299}) {
      test_attention(k, Precision::fp32, 300, 1.0f, reach);
      test_attention(k, Precision::bf16, 301, 0.5f, reach);
      test_attention(k, Precision::bf16, 301, 0.5f, reach, true);
      test_attention(k, Precision::int16, 301, 0.5f, reach);
    }
    for (int ahead : {0, 5}) {
      test_attention(k, Precision::fp32, 130, 1.0f, 1 << 30, false, ahead);
      test_attention(k, Precision::bf16, 61, 0.5f, 40, false, ahead);
      test_attention(k, Precision::int16, 61, 0.5f, 40, false, ahead);
    }
  });
  return result();
}
