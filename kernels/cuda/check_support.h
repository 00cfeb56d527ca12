// What the checks are made of: vectors on the GPU, ragged batches, random heads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../tests/noise.h"
#include "asa/cuda/model.h"
#include "buffers.h"
#include "checks.h"
#include "kernel.h"

namespace asa::cuda {

inline constexpr double kNever = std::numeric_limits<double>::infinity();

// Rounding a factor costs half a unit in its last place; norms average what errors cancel.
inline double rounding(int format) { return Format(format) == Format::bf16 ? 3e-3 : 4e-4; }

using tests::noise;

template <class A, class B>
double relative_error(const A& found, const B& expected) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(double(found[i]) - double(expected[i]), 2);
    norm += std::pow(double(expected[i]), 2);
  }
  return norm > 0 ? std::sqrt(difference / norm) : difference > 0 ? kNever : 0;
}

// NaN if either is.
inline double worse(double a, double b) { return a >= b || std::isnan(a) ? a : b; }

// Vectors on the GPU.
class Device {
 public:
  Stream stream;

  template <class T>
  T* put(const std::vector<T>& from) {
    T* to = room<T>(from.size());
    stream.copy_to_device(to, from.data(), from.size() * sizeof(T));
    stream.synchronize();
    return to;
  }
  void* put(int format, const std::vector<float>& from) {
    std::vector<std::uint16_t> rounded(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) rounded[i] = bits(format, from[i]);
    return put(rounded);
  }
  template <class T>
  T* room(std::size_t count) {
    held_.emplace_back(Memory::Place::device, count * sizeof(T));
    stream.fill(held_.back().as(), 0xff, held_.back().bytes());
    return held_.back().template as<T>();
  }
  template <class T>
  std::vector<T> get(const T* from, std::size_t count) {
    std::vector<T> to(count);
    stream.copy_to_host(to.data(), from, count * sizeof(T));
    stream.synchronize();
    return to;
  }
  std::vector<float> get(int format, const void* from, std::size_t count) {
    const auto rounded = get(static_cast<const std::uint16_t*>(from), count);
    std::vector<float> to(count);
    for (std::size_t i = 0; i < count; ++i) to[i] = value(format, rounded[i]);
    return to;
  }

  // The median of what one of several runs takes, after as many to warm up as it takes.
  template <class Work>
  double time(const Check& check, const Work& work) {
    if (!check.runs) return 0;
    for (int run = 0; run < 3; ++run) work();
    std::vector<double> taken;
    for (int run = 0; run < check.runs; ++run) taken.push_back(stream.time(work));
    std::nth_element(taken.begin(), taken.begin() + check.runs / 2, taken.end());
    return taken[check.runs / 2];
  }

  static std::uint16_t bits(int format, float x) {
    std::uint16_t bits;
    if (Format(format) == Format::bf16) {
      const bf16 rounded = from_float<bf16>(x);
      std::memcpy(&bits, &rounded, 2);
    } else {
      const fp16 rounded = from_float<fp16>(x);
      std::memcpy(&bits, &rounded, 2);
    }
    return bits;
  }
  static float value(int format, std::uint16_t bits) {
    bf16 wide;
    fp16 narrow;
    std::memcpy(&wide, &bits, 2);
    std::memcpy(&narrow, &bits, 2);
    return Format(format) == Format::bf16 ? to_float(wide) : to_float(narrow);
  }
  static float rounded(int format, float x) { return value(format, bits(format, x)); }

 private:
  std::vector<Memory> held_;
};

// A ragged batch's tables, made here a second time and differently from the model's.
struct Windows {
  std::vector<int> frames, starts{0}, mel_frames, mel_starts, input_starts{0};
  std::vector<Span> strip, tile;

  Windows(const std::vector<int>& mels, const std::vector<int>& inputs) : mel_frames(mels) {
    int mel_at = 0;
    for (std::size_t w = 0; w < mels.size(); ++w) {
      frames.push_back((mels[w] + 1) / 2);
      starts.push_back(starts.back() + frames.back());
      mel_starts.push_back(mel_at);
      mel_at += mels[w] + 2;
      input_starts.push_back(input_starts.back() + inputs[w]);
      for (int t = 0; t < frames.back(); ++t) {
        if (t % kStripRows == 0) strip.push_back({int(w), t});
        if (t % kTileRows == 0) tile.push_back({int(w), t});
      }
    }
    mel_starts.push_back(mel_at);
  }

  int rows() const { return starts.back(); }

  Ragged on(Device& device) const {
    return {device.put(std::vector<int>{int(strip.size())}),
            device.put(strip),
            device.put(std::vector<int>{int(tile.size())}),
            device.put(tile),
            device.put(starts),
            device.put(mel_frames),
            device.put(mel_starts),
            device.put(input_starts),
            int(strip.size()) + 2,  // a bucket has more room than a batch needs
            int(tile.size()) + 1};
  }
};

inline Windows of_frames(const std::vector<int>& frames) {
  std::vector<int> mels;
  for (int f : frames) mels.push_back(2 * f);
  return Windows(mels, mels);
}

inline std::vector<int> lengths(bool large) {
  if (!large) return {1, 67, 16, 130};
  std::vector<int> all;
  for (int i = 0; i < 64; ++i) all.push_back(50 + 37 * i % 1450);
  return all;
}

// A head with random weights; what they point to lives as long as this.
struct RandomHead {
  HeadShape shape;
  HeadWeights weights{};
  std::vector<std::vector<float>> held;
  std::vector<float> attention_weight, attention_bias;

  explicit RandomHead(const HeadShape& s) : shape(s) {
    unsigned seed = 100;
    for (const HeadTensor& tensor : head_tensors(s)) {
      held.push_back(noise(std::size_t(tensor.rows) * tensor.columns,
                           1.0f / std::sqrt(float(tensor.columns)), seed++));
      weights.*tensor.member = held.back().data();
    }
    attention_weight = noise(std::size_t(s.heads) * s.width, 0.2f, seed++);
    attention_bias = noise(s.heads, 0.2f, seed++);
  }
};

inline HeadShape head_shape(bool large, int width, int layers) {
  return large ? HeadShape{width, 4, 128, 8, 32, 256, 4, layers + 1, 256, 2000}
               : HeadShape{width, 3, 20, 8, 6, 24, 3, layers + 1, 9, 30};
}

Outcome run_model(const Check& check);

}  // namespace asa::cuda
