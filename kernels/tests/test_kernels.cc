// Every kernel of every instruction set this CPU has, on shapes that fill no tile, panel or group,
// against plain loops in double. Built with sanitizers (-DASA_SANITIZE=address,undefined) it also
// shows that none reads or writes where it should not.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "asa/attend.h"
#include "asa/balance.h"
#include "asa/decoder.h"
#include "asa/encoder.h"
#include "asa/isa.h"

namespace {

using asa::Precision;
using Matrix = std::vector<double>;

int failures = 0;

void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED %s\n", what.c_str());
}

std::vector<float> noise(std::size_t count, float scale, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

double relative_error(const std::vector<float>& found, const Matrix& expected) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference / size);
}

// Rounding of each factor: 2^-24, 2^-9 and, for 255 steps over the range of a row, about 2^-8.
double tolerance(Precision precision) {
  return precision == Precision::fp32 ? 1e-5 : precision == Precision::bf16 ? 5e-3 : 1.5e-2;
}

const char* name_of(Precision precision) {
  return precision == Precision::fp32 ? "fp32" : precision == Precision::bf16 ? "bf16" : "int8";
}

double gelu(double x) { return x / 2 * (1 + std::erf(x / std::sqrt(2.0))); }

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
    linear = {precision,      in,          this->out, panels.ints(), packed_bias.floats(),
              scale.floats(), sum.floats()};
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
  k.gemm.add(input.rows, w.linear, rows, sum.data(), w.out);
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
  k.gemm.add(hidden.rows, next.linear, rows, second.data(), next.out);
  check(relative_error(second, next.times(activated, rows)) < 2 * tolerance(precision),
        what + " gelu_put");
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
  k.layer_norm.mix(x.data(), width, rows, width, gamma.data(), beta.data(), 0.5f, mixed.data());
  k.layer_norm.add_scaled(x.data(), width, rows, width, 2.0f, mixed.data());
  check(relative_error(mixed, expected) < 1e-5, what + " mix");

  const Weights w(k, Precision::fp32, width, 24);
  Input input(k, Precision::fp32, width, rows);
  std::vector<float> scratch(asa::round_up(width, asa::kGroup)), y(std::size_t(rows) * w.out);
  k.layer_norm.put(x.data(), width, rows, gamma.data(), beta.data(), input.rows, scratch.data());
  k.gemm.add(input.rows, w.linear, rows, y.data(), w.out);
  check(relative_error(y, w.times(normal, rows)) < 1e-5, what + " put");
}

// q_scale 30 makes scores of thousands: the shift taken from the first keys overflows.
void test_attention(const asa::Kernels& k, Precision precision, int length, float q_scale,
                    int reach = 1 << 30, bool bytes = false) {
  const std::string what = std::string(k.isa) + " attention " + name_of(precision) + " " +
                           std::to_string(length) + " reach " + std::to_string(reach) +
                           (bytes ? " of bytes" : "");
  const int panel = k.gemm.geometry.panel, tile = k.gemm.geometry.rows;
  const int heads = 2, head = 2 * panel, all = heads * head;
  const int tiles = (length + tile - 1) / tile, rows = tiles * tile;
  const int panels = (rows + panel - 1) / panel, words = asa::words_of(precision, head);
  const Weights w(k, Precision::fp32, all, all);
  auto x = noise(std::size_t(rows) * all + asa::kGroup, q_scale, 9);
  Input input(k, Precision::fp32, all, rows);
  k.gemm.put_rows(x.data(), all, rows, input.rows);
  asa::Buffer q(std::size_t(rows) * heads * asa::chunks_of(precision, head) * asa::kChunkWords);
  asa::Buffer keys(std::size_t(panels) * panel * heads * words);
  asa::Buffer values(std::size_t(panels) * panel * heads * words);
  asa::Buffer query_scale(std::size_t(rows) * heads * 2), scratch(std::size_t(rows) * asa::kGroup);
  asa::Buffer key_scale(std::size_t(panels) * panel * heads * 2);
  const asa::Attention a{.precision = precision,
                         .heads = heads,
                         .head_width = head,
                         .length = length,
                         .queries = q.ints(),
                         .keys = keys.ints(),
                         .values = values.ints(),
                         .key_panels = panels,
                         .key_words = panels * panel / asa::inputs_per_word(precision),
                         .reach = reach,
                         .scores = bytes ? Precision::int8 : precision,
                         .query_scale = query_scale.floats(),
                         .key_scale = key_scale.floats(),
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
        if (std::abs(r - c) > reach) score[c] = -1e30;
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
  check(relative_error(found, expected) < (exact ? 2e-3 : 2e-1), what);
}

void test_log_mel(const asa::Kernels& k) {
  const asa::LogMelPlan plan(80);
  const int frames = 13;
  const auto samples = noise(asa::kHop * (frames - 1) + asa::kFft, 0.1f, 10);
  std::vector<float> found(80 * asa::kFrameBlock);
  k.log_mel_block(plan, samples.data(), frames, found.data(), asa::kFrameBlock);
  for (int m = 0; m < 80; ++m) {
    for (int f = 0; f < frames; ++f) {
      double power = 0;
      for (int i = plan.mel_offset[m]; i < plan.mel_offset[m + 1]; ++i) {
        const int bin = plan.mel_first[m] + i - plan.mel_offset[m];
        double re = 0, im = 0;
        for (int n = 0; n < asa::kFft; ++n) {
          const double angle = 2 * 3.14159265358979323846 * bin * n / asa::kFft;
          const double value = samples[f * asa::kHop + n] * 2.0 * plan.window[n];
          re += value * std::cos(angle);
          im -= value * std::sin(angle);
        }
        power += plan.mel_weight[i] * (re * re + im * im);
      }
      const double expected = std::log10(std::max(power, 1e-10));
      check(std::abs(found[m * asa::kFrameBlock + f] - expected) < 1e-4,
            std::string(k.isa) + " log_mel");
    }
  }
}

void test_pool(const asa::Kernels& k) {
  const int count = 21, width = 37, heads = 3;
  const auto x = noise(count * width, 1.0f, 11), a = noise(heads * width, 0.3f, 12);
  const auto c = noise(heads, 1.0f, 13);
  Matrix expected(1 + 2 * width + heads * (1 + width));
  expected[0] = count;
  for (int t = 0; t < count; ++t) {
    for (int i = 0; i < width; ++i) {
      expected[1 + i] += x[t * width + i];
      expected[1 + width + i] += std::pow(x[t * width + i], 2);
    }
    for (int h = 0; h < heads; ++h) {
      double logit = c[h];
      for (int i = 0; i < width; ++i) logit += double(a[h * width + i]) * x[t * width + i];
      const double w = std::exp(4 * std::tanh(logit / 4));
      expected[1 + 2 * width + h] += w;
      for (int i = 0; i < width; ++i) {
        expected[1 + 2 * width + heads + h * width + i] += w * x[t * width + i];
      }
    }
  }
  std::vector<float> found(expected.size());
  k.pool.pool(x.data(), count, width, a.data(), c.data(), heads, found.data());
  check(relative_error(found, expected) < 1e-5, std::string(k.isa) + " pool");
}

// Against the generic path, which tests/kernels/test_head.py holds to NumPy; widths fill no vector.
void test_head(const asa::Kernels& k) {
  const asa::HeadShape s = {.width = 37,
                            .heads = 3,
                            .prior_width = 13,
                            .levels = 5,
                            .embedding = 6,
                            .hidden = 19,
                            .aspects = 3,
                            .outputs = 2,
                            .place = 11,
                            .centres = 23};
  std::vector<std::vector<float>> tensors;
  for (int count : {s.width,
                    s.width,
                    s.prior_width * s.width,
                    s.prior_width,
                    s.levels * s.prior_width,
                    s.levels,
                    s.embedding * s.levels,
                    s.embedding,
                    s.pooled(),
                    s.pooled(),
                    s.hidden * s.features(),
                    s.hidden,
                    s.aspects * s.hidden,
                    s.aspects,
                    s.aspects,
                    s.aspects,
                    s.aspects,
                    s.place * 2 * s.sums(),
                    s.place,
                    1,
                    s.centres * (s.place + 1),
                    s.aspects * s.centres,
                    s.aspects}) {
    tensors.push_back(noise(count, 0.2f, 30 + unsigned(tensors.size())));
  }
  const auto at = [&](int i) { return tensors[i].data(); };
  const asa::HeadWeights w = {at(0),  at(1),  at(2),  at(3),  at(4),  at(5),  at(6),  at(7),
                              at(8),  at(9),  at(10), at(11), at(12), at(13), at(14), at(15),
                              at(16), at(17), at(18), at(19), at(20), at(21), at(22)};
  auto stats = noise(s.stats(), 5.0f, 29);
  for (float& value : stats) value = std::abs(value) + 1.0f;
  const auto run = [&](const asa::Kernels& kernels) {
    std::vector<double> scratch(asa::head_scratch(s));
    std::vector<float> found(s.aspects + s.levels);
    kernels.head.run(s, w, stats.data(), scratch.data(), found.data(), found.data() + s.aspects);
    return found;
  };
  const auto generic = run(asa::kernels_for("generic"));
  const Matrix expected(generic.begin(), generic.end());
  check(relative_error(run(k), expected) < 1e-5, std::string(k.isa) + " head");
}

// Keys past the length and out of reach, and queries left without any.
void test_attend() {
  const int frames = 61, width = 34, heads = 2, length = 20, reach = 9, head = width / heads;
  const auto q = noise(frames * width, 1.0f, 60), k = noise(frames * width, 1.0f, 61);
  const auto v = noise(frames * width, 1.0f, 62);
  Matrix expected(frames * width);
  for (int r = 0; r < frames; ++r) {
    for (int h = 0; h < heads; ++h) {
      double total = 0;
      std::vector<double> sum(head);
      for (int c = std::max(0, r - reach); c < std::min(length, r + reach + 1); ++c) {
        double score = 0;
        for (int i = 0; i < head; ++i) {
          score += double(q[r * width + h * head + i]) * k[c * width + h * head + i];
        }
        const double weight = std::exp(score / std::sqrt(double(head)));
        total += weight;
        for (int i = 0; i < head; ++i) sum[i] += weight * v[c * width + h * head + i];
      }
      for (int i = 0; total > 0 && i < head; ++i) {
        expected[r * width + h * head + i] = sum[i] / total;
      }
    }
  }
  std::vector<float> found(expected.size(), 1.0f);
  asa::attend(Precision::fp32, {frames, heads, width, length, reach}, q.data(), k.data(), v.data(),
              found.data());
  check(relative_error(found, expected) < 1e-5, "attend");
}

// A decoder of which all products but the last give `size` times noise.
std::vector<float> decode(Precision precision, float size, const asa::DecoderShape& s,
                          const std::vector<float>& speech, const std::vector<int>& tokens) {
  const int d = s.width;
  unsigned seed = 70;
  const auto weight = [&](int out, int in) {
    return noise(std::size_t(out) * in, size / std::sqrt(float(in)), ++seed);
  };
  asa::Decoder decoder(s, precision);
  decoder.set_embeddings(noise(s.tokens * d, 1.0f, 63).data(),
                         noise(s.positions * d, 1, 64).data());
  const std::vector<float> ones(d, 1.0f), none(d, 0.0f);
  for (int layer = 0; layer < s.layers; ++layer) {
    const auto qkv = weight(3 * d, d), qkv_bias = weight(3 * d, 1), o = weight(d, d);
    const auto q = weight(d, d), kv = weight(2 * d, d), kv_bias = weight(2 * d, 1);
    const auto cross_o = weight(d, d), fc1 = weight(s.inner, d), fc1_bias = weight(s.inner, 1);
    const auto fc2 = weight(d, s.inner), bias = weight(d, 1);
    decoder.set_layer(layer,
                      {ones.data(), none.data(),    qkv.data(),      qkv_bias.data(), o.data(),
                       bias.data(), ones.data(),    none.data(),     q.data(),        bias.data(),
                       kv.data(),   kv_bias.data(), cross_o.data(),  bias.data(),     ones.data(),
                       none.data(), fc1.data(),     fc1_bias.data(), fc2.data(),      bias.data()});
  }
  decoder.set_final_norm(ones.data(), none.data());
  const int frames = int(speech.size()) / d, heads = s.layers * s.heads;
  std::vector<float> all, logits(s.tokens), attended(std::size_t(heads) * frames);
  decoder.start(speech.data(), frames);
  for (const int token : tokens) {
    decoder.step(token, logits.data(), attended.data());
    all.insert(all.end(), logits.begin(), logits.end());
    for (int head = 0; head < heads; ++head) {
      double sum = 0;
      for (int t = 0; t < frames; ++t) sum += attended[head * frames + t];
      check(std::abs(sum - 1) < 1e-5, "decoder: shares of a head");
    }
  }
  return all;
}

void test_decoder() {
  const asa::DecoderShape s = {
      .width = 38, .heads = 2, .inner = 51, .layers = 2, .tokens = 45, .positions = 6};
  const auto speech = noise(37 * s.width, 1.0f, 65);
  const std::vector<int> tokens = {3, 44, 0, 7, 7, 12};
  // Without products a token's state is its embedding and its position's.
  const auto embeddings = noise(s.tokens * s.width, 1.0f, 63);
  const auto positions = noise(s.positions * s.width, 1, 64);
  Matrix expected;
  for (std::size_t n = 0; n < tokens.size(); ++n) {
    Matrix x(s.width);
    double mean = 0, square = 0;
    for (int i = 0; i < s.width; ++i) {
      x[i] = double(embeddings[tokens[n] * s.width + i]) + positions[n * s.width + i];
      mean += x[i] / s.width;
    }
    for (const double value : x) square += (value - mean) * (value - mean) / s.width;
    for (int t = 0; t < s.tokens; ++t) {
      double logit = 0;
      for (int i = 0; i < s.width; ++i) {
        logit += (x[i] - mean) / std::sqrt(square + 1e-5) * embeddings[t * s.width + i];
      }
      expected.push_back(logit);
    }
  }
  const auto plain = decode(Precision::fp32, 0.0f, s, speech, tokens);
  check(relative_error(plain, expected) < 1e-5, "decoder without products");
  const auto whole = decode(Precision::fp32, 1.0f, s, speech, tokens);
  const auto again = decode(Precision::fp32, 1.0f, s, speech, tokens);
  check(whole == again, "decoder: the same twice");
  // Some twenty products in a row, each rounded as `tolerance` says.
  const Matrix exact(whole.begin(), whole.end());
  const auto bytes = decode(Precision::int8, 1.0f, s, speech, tokens);
  check(relative_error(bytes, exact) < 20 * tolerance(Precision::int8), "decoder int8");
}

// Another order of the inner units, the same sums; the last unit's weights are the largest.
void test_balance() {
  const int width = 5, inner = 7;
  asa::FeedForward layer{noise(width, 1.0f, 20), noise(width, 1.0f, 21),
                         noise(inner * width, 1.0f, 22), noise(inner, 1.0f, 23),
                         noise(width * inner, 1.0f, 24)};
  for (int i = 0; i < width; ++i) layer.fc1_weight[2 * width + i] = 50.0f;
  const auto x = noise(width, 1.0f, 25);
  const auto run = [&](const asa::FeedForward& f) {
    std::vector<double> y(width);
    for (int o = 0; o < inner; ++o) {
      double sum = f.fc1_bias[o];
      for (int i = 0; i < width; ++i) {
        sum += f.fc1_weight[o * width + i] * double(x[i] * f.norm_weight[i] + f.norm_bias[i]);
      }
      for (int i = 0; i < width; ++i) y[i] += gelu(sum) * f.fc2_weight[i * inner + o];
    }
    return y;
  };
  const auto before = run(layer);
  asa::balance(layer);
  const auto after = run(layer);
  for (int i = 0; i < width; ++i) {
    check(std::abs(before[i] - after[i]) < 1e-9 * std::abs(before[i]), "balance");
  }
  check(layer.fc1_weight[(inner - 1) * width] == 50.0f, "balance: order");
}

// Workers asleep, awake in a session, more than the tasks, fewer than the last time: each task is
// done once, by a thread the pool has.
void test_thread_pool() {
  asa::ThreadPool pool(4);
  for (int round = 0; round < 300; ++round) {
    const int tasks = round * 7 % 13;
    std::vector<std::atomic<int>> done(tasks);
    std::atomic<bool> known{true};
    const auto work = [&](int task, int thread) {
      ++done[task];
      if (thread < 0 || thread >= 4) known = false;
    };
    {
      const asa::ThreadPool::Session session(pool, round % 6);
      pool.run(tasks, work);
      if (round % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      pool.run(tasks, work);
    }
    if (round % 3) pool.run(tasks, work);
    for (const auto& count : done) check(count == (round % 3 ? 3 : 2), "thread pool: each task");
    check(known, "thread pool: threads");
  }
}

}  // namespace

int main() {
  test_thread_pool();
  test_balance();
  test_attend();
  test_decoder();
  const std::string list = asa::available_isas();
  for (std::size_t begin = 0; begin < list.size();) {
    const std::size_t end = std::min(list.find(", ", begin), list.size());
    const asa::Kernels& k = asa::kernels_for(list.substr(begin, end - begin).c_str());
    begin = end + 2;
    for (auto precision : {Precision::fp32, Precision::bf16, Precision::int8}) {
      test_gemm(k, precision, 384, 384, 24);
      test_gemm(k, precision, 129, 70, 13);
      test_gemm(k, precision, 130, 33, 20);
      test_gemm(k, precision, 3, 1, 1);
      check(k.peak.multiply(precision, 10) > 0, std::string(k.isa) + " peak");
    }
    test_layer_norm(k, 384, 12);
    test_layer_norm(k, 61, 5);
    for (int length : {1, 7, 33, 49, 300, 1100}) {
      test_attention(k, Precision::fp32, length, 1.0f);
      test_attention(k, Precision::bf16, length, 0.5f);
      test_attention(k, Precision::fp32, length, 0.5f, 1 << 30, true);
      test_attention(k, Precision::bf16, length, 0.5f, 1 << 30, true);
    }
    test_attention(k, Precision::fp32, 300, 30.0f);
    for (int reach : {0, 1, 31, 64, 299}) {
      test_attention(k, Precision::fp32, 300, 1.0f, reach);
      test_attention(k, Precision::bf16, 301, 0.5f, reach);
      test_attention(k, Precision::bf16, 301, 0.5f, reach, true);
    }
    test_log_mel(k);
    test_pool(k);
    test_head(k);
    std::printf("%s: done\n", k.isa);
  }
  if (failures) std::printf("%d failures\n", failures);
  return failures != 0;
}
