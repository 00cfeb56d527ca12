// Reading the weights is what a frame costs: each is read once for all steps that it meets.
#include "asa/voice.h"

#include <math.h>

#include "rows.h"

namespace asa::ASA_ISA {
namespace {

// y[s y_step + o] = the sum over i of w[o][i] x[s x_step + i], for S steps.
template <int S>
void product(const float* w, const float* x, int x_step, int in, int out, float* y, int y_step) {
  constexpr int kAtOnce = S == 4 ? 4 : 8;
  int o = 0;
  for (; o + kAtOnce <= out; o += kAtOnce) {
    sum_rows<Product, kAtOnce, S>(w + size_t(o) * in, x, in, y + o, x_step, y_step);
  }
  for (; o < out; ++o) sum_rows<Product, 1, S>(w + size_t(o) * in, x, in, y + o, x_step, y_step);
}

float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

float run(const VoiceWeights& w, const float* samples, float* state) {
  constexpr int kHeard = kVoiceContext + kVoiceFrame;
  constexpr int kPadded = (kVoiceSteps - 1) * kVoiceHop + kVoiceWindow;
  float sound[kPadded];
  for (int i = 0; i < kHeard; ++i) sound[i] = samples[i];
  for (int i = kHeard; i < kPadded; ++i) sound[i] = samples[2 * (kHeard - 1) - i];

  // Steps of a layer's input stand between one of zeros on each side.
  constexpr int kWidest = kVoiceBins;
  float layers[2][(kVoiceSteps + 2) * kWidest];
  float* in = layers[0];
  float* out = layers[1];
  float spectra[kVoiceSteps][2 * kVoiceBins];
  product<kVoiceSteps>(w.basis, sound, kVoiceHop, kVoiceWindow, 2 * kVoiceBins, spectra[0],
                       2 * kVoiceBins);
  for (int t = 0; t < kVoiceSteps; ++t) {
    for (int b = 0; b < kVoiceBins; ++b) {
      const float re = spectra[t][b], im = spectra[t][kVoiceBins + b];
      in[(t + 1) * kVoiceBins + b] = sqrtf(re * re + im * im);
    }
  }
  int steps = kVoiceSteps;
  for (int layer = 0; layer < kVoiceConvolutions; ++layer) {
    const VoiceConvolution shape = kVoiceShapes[layer];
    for (int i = 0; i < shape.in; ++i) in[i] = in[(steps + 1) * shape.in + i] = 0.0f;
    const int next = (steps - 1) / shape.stride + 1;
    const auto multiply = next == 4 ? product<4> : next == 2 ? product<2> : product<1>;
    multiply(w.convolution[layer], in, shape.stride * shape.in, kVoiceTaps * shape.in, shape.out,
             out + shape.out, shape.out);
    for (int t = 0; t < next; ++t) {
      float* to = out + (t + 1) * shape.out;
      for (int o = 0; o < shape.out; ++o) {
        const float value = to[o] + w.bias[layer][o];
        to[o] = value > 0.0f ? value : 0.0f;
      }
    }
    float* used = in;
    in = out;
    out = used;
    steps = next;
  }

  float joined[2 * kVoiceWidth], gates[4 * kVoiceWidth];
  for (int i = 0; i < kVoiceWidth; ++i) {
    joined[i] = in[kVoiceWidth + i];
    joined[kVoiceWidth + i] = state[i];
  }
  product<1>(w.lstm, joined, 0, 2 * kVoiceWidth, 4 * kVoiceWidth, gates, 0);
  float* cell = state + kVoiceWidth;
  float logit = w.output_bias[0];
  for (int i = 0; i < kVoiceWidth; ++i) {
    float gate[4];
    for (int g = 0; g < 4; ++g) {
      gate[g] = gates[g * kVoiceWidth + i] + w.lstm_bias[g * kVoiceWidth + i];
    }
    cell[i] = sigmoid(gate[1]) * cell[i] + sigmoid(gate[0]) * tanhf(gate[2]);
    state[i] = sigmoid(gate[3]) * tanhf(cell[i]);
    if (state[i] > 0.0f) logit += w.output[i] * state[i];
  }
  return sigmoid(logit);
}

}  // namespace

VoiceKernels voice_kernels() { return {.run = run}; }

}  // namespace asa::ASA_ISA
