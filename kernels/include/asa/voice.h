// Silero's voice activity detector at 16 kHz: a frame of sound and a state to a probability.
#pragma once

namespace asa {

inline constexpr int kVoiceContext = 64;  // samples before a frame that it is seen with
inline constexpr int kVoiceFrame = 512;
inline constexpr int kVoiceWidth = 128;  // of the LSTM; its state is its output and its cell

inline constexpr int kVoiceWindow = 256, kVoiceHop = 128;  // of the short-time spectra
inline constexpr int kVoiceBins = kVoiceWindow / 2 + 1;
inline constexpr int kVoiceSteps = 4;  // of them in a frame, mirrored at its end
inline constexpr int kVoiceConvolutions = 4, kVoiceTaps = 3;

struct VoiceConvolution {
  int in, out, stride;
};
inline constexpr VoiceConvolution kVoiceShapes[kVoiceConvolutions] = {
    {kVoiceBins, 128, 1}, {128, 64, 2}, {64, 64, 2}, {64, kVoiceWidth, 1}};

// Row-major float32, [out][in].
struct VoiceWeights {
  const float* basis;                            // [2 bins][window]: cosines, then sines
  const float* convolution[kVoiceConvolutions];  // [out][taps][in]
  const float* bias[kVoiceConvolutions];
  const float *lstm, *lstm_bias;      // [4 width][2 width]: gates i f g o over input, then output
  const float *output, *output_bias;  // [width], [1]
};

struct VoiceKernels {
  // samples [context + frame]; state [2 width], moved on. Returns the probability of speech.
  float (*run)(const VoiceWeights& weights, const float* samples, float* state);
};

}  // namespace asa
