// Log-mel, pooling, head, speech detector and Fourier transform of every instruction set this CPU
// has, against plain loops in double.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "asa/buffer.h"
#include "checks.h"

namespace {

using namespace asa::tests;

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

// Plain loops in double over the same weights, two frames one after the other.
// Every 61st point against its sum: 64 is prime to that, so each row and column has its turn.
void test_fourier(const asa::Kernels& k) {
  constexpr int n = asa::kFourier;
  const auto roots = std::make_unique<asa::FourierRoots>();
  for (int i = 0; i < n; ++i) {
    const double angle = 2 * 3.14159265358979323846 * i / n;
    roots->real[i] = std::cos(angle);
    roots->imag[i] = -std::sin(angle);
  }
  const auto x = noise(2 * n, 1.0f, 19);
  std::vector<double> real(x.begin(), x.begin() + n), imag(x.begin() + n, x.end());
  std::vector<double> spare(2 * n, 1e9);
  k.fourier.transform(*roots, real.data(), imag.data(), spare.data());
  for (int i = 0; i < n; i += 61) {
    double re = 0, im = 0;
    for (int j = 0; j < n; ++j) {
      const int turn = static_cast<int>(static_cast<long long>(i) * j % n);
      re += x[j] * roots->real[turn] - x[n + j] * roots->imag[turn];
      im += x[j] * roots->imag[turn] + x[n + j] * roots->real[turn];
    }
    check(std::hypot(real[i] - re, imag[i] - im) < 1e-10, std::string(k.isa) + " fourier");
  }
}

void test_voice(const asa::Kernels& k) {
  using namespace asa;
  constexpr int width = kVoiceWidth, windows = kVoiceSteps * kVoiceBins;
  const auto basis = noise(2 * kVoiceBins * kVoiceWindow, 0.1f, 80);
  const auto lstm = noise(8 * width * width, 0.06f, 81), lstm_bias = noise(4 * width, 0.3f, 82);
  const auto output = noise(width, 0.3f, 83), output_bias = noise(1, 0.3f, 84);
  std::vector<std::vector<float>> weight, bias;
  VoiceWeights w = {.basis = basis.data(),
                    .convolution = {},
                    .bias = {},
                    .lstm = lstm.data(),
                    .lstm_bias = lstm_bias.data(),
                    .output = output.data(),
                    .output_bias = output_bias.data()};
  for (int i = 0; i < kVoiceConvolutions; ++i) {
    const auto [in, out, stride] = kVoiceShapes[i];
    weight.push_back(noise(std::size_t(out) * kVoiceTaps * in, 0.05f, 85 + i));
    bias.push_back(noise(out, 0.1f, 90 + i));
    w.convolution[i] = weight[i].data();
    w.bias[i] = bias[i].data();
  }
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  std::vector<float> state(2 * width);
  Matrix h(width), c(width);
  for (unsigned frame = 0; frame < 2; ++frame) {
    const auto samples = noise(kVoiceContext + kVoiceFrame, 0.1f, 95 + frame);
    const auto at = [&](int i) {
      const int last = kVoiceContext + kVoiceFrame - 1;
      return double(samples[i > last ? 2 * last - i : i]);
    };
    Matrix x(windows);
    for (int t = 0; t < kVoiceSteps; ++t) {
      for (int b = 0; b < kVoiceBins; ++b) {
        double part[2] = {0, 0};
        for (int half = 0; half < 2; ++half) {
          for (int i = 0; i < kVoiceWindow; ++i) {
            part[half] += basis[(half * kVoiceBins + b) * kVoiceWindow + i] * at(t * kVoiceHop + i);
          }
        }
        x[t * kVoiceBins + b] = std::sqrt(part[0] * part[0] + part[1] * part[1]);
      }
    }
    int steps = kVoiceSteps;
    for (int layer = 0; layer < kVoiceConvolutions; ++layer) {
      const auto [in, out, stride] = kVoiceShapes[layer];
      const int next = (steps - 1) / stride + 1;
      Matrix y(next * out);
      for (int t = 0; t < next; ++t) {
        for (int o = 0; o < out; ++o) {
          double total = bias[layer][o];
          for (int tap = 0; tap < kVoiceTaps; ++tap) {
            const int from = t * stride + tap - 1;
            if (from < 0 || from >= steps) continue;
            for (int i = 0; i < in; ++i) {
              total += weight[layer][(o * kVoiceTaps + tap) * in + i] * x[from * in + i];
            }
          }
          y[t * out + o] = std::max(total, 0.0);
        }
      }
      x = y;
      steps = next;
    }
    Matrix gate(4 * width);
    for (int g = 0; g < 4 * width; ++g) {
      gate[g] = lstm_bias[g];
      for (int i = 0; i < width; ++i) {
        gate[g] += lstm[g * 2 * width + i] * x[i] + lstm[g * 2 * width + width + i] * h[i];
      }
    }
    double logit = output_bias[0];
    for (int i = 0; i < width; ++i) {
      c[i] = sigmoid(gate[width + i]) * c[i] + sigmoid(gate[i]) * std::tanh(gate[2 * width + i]);
      h[i] = sigmoid(gate[3 * width + i]) * std::tanh(c[i]);
      logit += output[i] * std::max(h[i], 0.0);
    }
    const double found = k.voice.run(w, samples.data(), state.data());
    Matrix expected = h;
    expected.insert(expected.end(), c.begin(), c.end());
    check(std::abs(found - sigmoid(logit)) < 1e-5, std::string(k.isa) + " voice");
    check(relative_error(state, expected) < 1e-5, std::string(k.isa) + " voice state");
  }
}

}  // namespace

int main() {
  on_every_isa([](const asa::Kernels& k) {
    test_log_mel(k);
    test_pool(k);
    test_head(k);
    test_voice(k);
    test_fourier(k);
  });
  return result();
}
