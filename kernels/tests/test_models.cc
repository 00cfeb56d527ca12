// What is made of the kernels, against plain loops in double: attention over plain matrices, the
// text decoder, the order of inner units.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "asa/attend.h"
#include "asa/balance.h"
#include "asa/decoder.h"
#include "checks.h"

namespace {

using namespace asa::tests;

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
std::vector<float> decode(const asa::Kernels& k, Precision precision, float size,
                          const asa::DecoderShape& s, const std::vector<float>& speech,
                          const std::vector<int>& tokens) {
  const int d = s.width;
  unsigned seed = 70;
  const auto weight = [&](int out, int in) {
    return noise(std::size_t(out) * in, size / std::sqrt(float(in)), ++seed);
  };
  asa::Decoder decoder(s, precision, k);
  decoder.set_tokens(0, noise(s.tokens * d, 1.0f, 63).data(), s.tokens);
  decoder.set_positions(noise(s.positions * d, 1, 64).data());
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

void test_decoder(const asa::Kernels& k) {
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
  const auto plain = decode(k, Precision::fp32, 0.0f, s, speech, tokens);
  check(relative_error(plain, expected) < 1e-5, "decoder without products");
  const auto whole = decode(k, Precision::fp32, 1.0f, s, speech, tokens);
  const auto again = decode(k, Precision::fp32, 1.0f, s, speech, tokens);
  check(whole == again, "decoder: the same twice");
  // Some twenty products in a row, each rounded as `tolerance` says.
  const Matrix exact(whole.begin(), whole.end());
  const auto bytes = decode(k, Precision::int8, 1.0f, s, speech, tokens);
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

}  // namespace

int main() {
  test_balance();
  test_attend();
  on_every_isa(test_decoder);
  return result();
}
