#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "asa/attend.h"
#include "asa/cuda/attention.h"
#include "asa/cuda/gemm.h"
#include "asa/cuda/layer_norm.h"
#include "asa/cuda/log_mel.h"
#include "asa/cuda/model.h"
#include "asa/cuda/pool_head.h"
#include "asa/isa.h"
#include "buffers.h"
#include "checks.h"
#include "kernel.h"

namespace asa::cuda {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// Rounding a factor costs half a unit in its last place; norms average what errors cancel.
double rounding(int format) { return Format(format) == Format::bf16 ? 3e-3 : 4e-4; }

std::vector<float> noise(std::size_t count, float scale, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(count);
  for (float& value : x) value = normal(random);
  return x;
}

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
double worse(double a, double b) { return a >= b || std::isnan(a) ? a : b; }

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

Windows of_frames(const std::vector<int>& frames) {
  std::vector<int> mels;
  for (int f : frames) mels.push_back(2 * f);
  return Windows(mels, mels);
}

std::vector<int> lengths(bool large) {
  if (!large) return {1, 67, 16, 130};
  std::vector<int> all;
  for (int i = 0; i < 64; ++i) all.push_back(50 + 37 * i % 1450);
  return all;
}

Outcome run_log_mel(const Check& check) {
  Device device;
  const int mels = 80, stride = 96;
  std::vector<int> sizes = {201, 4003, 16000 + 159};
  if (check.large) sizes.assign(256, 4 * kSampleRate);
  std::vector<float> samples, expected;
  std::vector<int> frames;
  for (std::size_t w = 0; w < sizes.size(); ++w) {
    auto window = noise(sizes[w], 0.1f, unsigned(w) + 1);
    for (int i = 0; i < sizes[w] / 2; ++i) window[i] *= 1e-4f;  // so that the floor is reached
    frames.push_back(sizes[w] / kHop);
    std::vector<float> mel(std::size_t(mels) * frames.back());
    asa::log_mel(mels, window.data(), window.size(), mel.data());
    expected.resize(expected.size() + stride);
    for (int t = 0; t < frames.back(); ++t) {
      for (int m = 0; m < stride; ++m) {
        expected.push_back(m < mels ? mel[std::size_t(m) * frames.back() + t] : 0.0f);
      }
    }
    expected.resize(expected.size() + stride);
    samples.insert(samples.end(), window.begin(), window.end());
  }
  const Windows windows(frames, sizes);
  const Ragged ragged = windows.on(device);
  std::vector<MelTables> tables;
  tables.emplace_back(LogMelPlan(mels));
  auto* out = device.room<std::uint16_t>(expected.size());
  const std::size_t count = sizes.size();
  const LogMel m{device.put(samples),
                 device.put(tables),
                 mels,
                 stride,
                 device.room<float>(expected.size()),
                 device.room<int>(count),
                 out};
  const auto work = [&] {
    device.stream.fill(m.top, kLowestTop, count * sizeof(int));
    log_mel(device.stream, Format(check.format), m, ragged);
  };
  work();
  // Float32 but for the rounded output, which is held to a tolerance of its own.
  const double rounded = relative_error(device.get(check.format, out, expected.size()), expected);
  auto power = device.get(m.power, expected.size());
  const auto top = device.get(m.top, count);
  for (std::size_t w = 0, at = 0; w < count; ++w) {
    const int key = top[w] < 0 ? top[w] ^ 0x7fffffff : top[w];  // as integers of the same order
    float floor;
    std::memcpy(&floor, &key, sizeof(floor));
    floor -= 8.0f;
    for (int t = -1; t <= frames[w]; ++t) {
      for (int mel = 0; mel < stride; ++mel, ++at) {
        const bool real = t >= 0 && t < frames[w] && mel < mels;
        power[at] = real ? (std::max(power[at], floor) + 4.0f) / 4.0f : 0.0f;
      }
    }
  }
  const double error =
      worse(rounded <= rounding(check.format) ? 0 : kNever, relative_error(power, expected));
  const double bytes = 4.0 * samples.size() + (4.0 + 4.0 + 2.0) * expected.size();
  return {error, 1e-5, device.time(check, work), 0, bytes};
}

Outcome run_gemm(const Check& check) {
  Device device;
  const int in = check.large ? 1280 : 96, out = check.large ? 5120 : 136;
  const int rows = check.large ? 8192 : 133, stride = in + 8;
  auto x = noise(std::size_t(rows) * stride, 1.0f, 1), w = noise(std::size_t(out) * in, 0.1f, 2);
  const auto bias = noise(out, 1.0f, 3);
  auto residual = noise(std::size_t(rows) * out, 1.0f, 4);
  const auto positions = noise(std::size_t(7) * out, 1.0f, 5);
  for (float& value : x) value = Device::rounded(check.format, value);
  for (float& value : w) value = Device::rounded(check.format, value);
  std::vector<int> source(rows), position(rows);
  for (int r = 0; r < rows; ++r) {
    source[r] = r % 5 == 4 ? -1 : rows - 1 - r;
    position[r] = r * 3 % 7;
  }
  const int probed = check.large ? 97 : 1;  // rows between those that are compared
  std::vector<double> stored, activated, added, placed;
  for (int r = 0; r < rows; r += probed) {
    for (int o = 0; o < out; ++o) {
      double plain = bias[o], turned = bias[o];
      for (int i = 0; i < in; ++i) {
        plain += double(w[std::size_t(o) * in + i]) * x[std::size_t(r) * stride + i];
        if (source[r] >= 0) {
          turned += double(w[std::size_t(o) * in + i]) * x[std::size_t(source[r]) * stride + i];
        }
      }
      const auto gelu = [](double y) { return y / 2 * (1 + std::erf(y / std::sqrt(2.0))); };
      stored.push_back(source[r] < 0 ? 0 : turned);
      activated.push_back(gelu(plain));
      added.push_back(residual[std::size_t(r) * out + o] + plain);
      placed.push_back(gelu(plain) + positions[std::size_t(position[r]) * out + o]);
    }
  }
  const auto probe = [&](const std::vector<float>& all) {
    std::vector<float> some;
    for (int r = 0; r < rows; r += probed) {
      some.insert(some.end(), all.begin() + std::size_t(r) * out,
                  all.begin() + std::size_t(r + 1) * out);
    }
    return some;
  };
  const Format format = Format(check.format);
  const std::size_t all = std::size_t(rows) * out;
  Gemm g{device.put(check.format, x),
         stride,
         device.put(source),
         device.put(check.format, w),
         device.put(bias),
         in,
         out,
         device.put(std::vector<int>{rows}),
         rows + 200};
  auto* short_out = device.room<std::uint16_t>(all);
  gemm_store(device.stream, format, g, false, short_out, out);
  double error = relative_error(probe(device.get(check.format, short_out, all)), stored);
  if (!check.large) {  // the same bits from large tiles, which so much room asks for
    const auto bits = device.get(short_out, all);
    Gemm roomy = g;
    roomy.room = 1 << 14;
    device.stream.fill(short_out, 0xff, all * sizeof(std::uint16_t));
    gemm_store(device.stream, format, roomy, false, short_out, out);
    if (device.get(short_out, all) != bits) error = kNever;
  }
  g.source = nullptr;
  gemm_store(device.stream, format, g, true, short_out, out);
  error =
      std::max(error, relative_error(probe(device.get(check.format, short_out, all)), activated));
  float* long_out = device.put(residual);
  gemm_add(device.stream, format, g, long_out, out);
  error = worse(error, relative_error(probe(device.get(long_out, all)), added));
  gemm_place(device.stream, format, g, device.put(positions), device.put(position), long_out, out);
  error = worse(error, relative_error(probe(device.get(long_out, all)), placed));
  const auto work = [&] { gemm_store(device.stream, format, g, true, short_out, out); };
  return {error, rounding(check.format), device.time(check, work), 2.0 * rows * in * out,
          2.0 * (double(rows) * in + double(out) * in + double(rows) * out)};
}

Outcome run_layer_norm(const Check& check) {
  Device device;
  const int width = check.large ? 1280 : 72, stride = round_up(width, 64);
  const Windows windows = of_frames(lengths(check.large));
  const int rows = windows.rows();
  const std::size_t all = std::size_t(rows) * stride, count = windows.frames.size();
  std::vector<float> x = noise(all, 3.0f, 6), gamma = noise(stride, 1.0f, 7),
                     beta = noise(stride, 1.0f, 8), mixed = noise(all, 1.0f, 9);
  for (int i = width; i < stride; ++i) {
    gamma[i] = beta[i] = 0;
    for (int r = 0; r < rows; ++r) x[std::size_t(r) * stride + i] = 0;
  }
  std::vector<double> normal(all), mix(all), sums(count * 2 * width);
  for (std::size_t w = 0; w < count; ++w) {
    for (int r = windows.starts[w]; r < windows.starts[w + 1]; ++r) {
      const float* row = x.data() + std::size_t(r) * stride;
      double mean = 0, variance = 0;
      for (int i = 0; i < width; ++i) mean += row[i] / double(width);
      for (int i = 0; i < width; ++i) variance += std::pow(row[i] - mean, 2) / width;
      for (int i = 0; i < stride; ++i) {
        const std::size_t at = std::size_t(r) * stride + i;
        normal[at] = (row[i] - mean) / std::sqrt(variance + 1e-5) * gamma[i] + beta[i];
        mix[at] = mixed[at] + 0.3 * normal[at];
        if (i < width) {
          sums[w * 2 * width + i] += normal[at];
          sums[w * 2 * width + width + i] += normal[at] * normal[at];
        }
      }
    }
  }
  const Ragged ragged = windows.on(device);
  auto* out = device.room<std::uint16_t>(all);
  float* mixed_there = device.put(mixed);
  float* stats = device.room<float>(count * 2 * width);
  const Norm n{device.put(x),
               stride,
               width,
               device.put(gamma),
               device.put(beta),
               out,
               true,
               mixed_there,
               0.3f,
               false,
               stats,
               2 * width,
               0,
               width,
               device.room<float>(std::size_t(ragged.strip_room) * 2 * stride),
               device.put(std::vector<unsigned>(count))};
  const auto work = [&] { layer_norm(device.stream, Format(check.format), n, ragged); };
  work();
  // Float32 but for the rounded output, which is held to a tolerance of its own.
  const double rounded = relative_error(device.get(check.format, out, all), normal);
  double error = rounded <= rounding(check.format) ? 0 : kNever;
  error = worse(error, relative_error(device.get(mixed_there, all), mix));
  error = worse(error, relative_error(device.get(stats, sums.size()), sums));
  return {error, 1e-5, device.time(check, work), 0, all * (4.0 + 2.0 + 8.0)};
}

Outcome run_attention(const Check& check) {
  Device device;
  const int heads = check.large ? 20 : 2, width = check.large ? 64 : 32, all = heads * width;
  const Windows windows = of_frames(lengths(check.large));
  const int rows = windows.rows(), stride = 3 * all;
  auto x = noise(std::size_t(rows) * stride, 1.0f, 10);
  for (float& value : x) value = Device::rounded(check.format, value);
  const Ragged ragged = windows.on(device);
  auto* out = device.room<std::uint16_t>(std::size_t(rows) * all);
  const Attention a{device.put(check.format, x), stride, heads, width, out, all};
  const auto work = [&] { attend(device.stream, Format(check.format), a, ragged); };
  work();
  const auto found = device.get(check.format, out, std::size_t(rows) * all);
  std::vector<float> got, expected;
  double operations = 0;
  for (std::size_t w = 0; w < windows.frames.size(); ++w) {
    const int length = windows.frames[w], start = windows.starts[w];
    operations += 4.0 * length * length * all;
    if (check.large && w % 16) continue;
    std::vector<float> parts[3], own(std::size_t(length) * all);
    // The CPU takes natural logarithms and divides by the root of the width.
    const float factor = std::sqrt(float(width)) / 1.44269504089f;
    for (int part = 0; part < 3; ++part) {
      for (int r = 0; r < length; ++r) {
        for (int i = 0; i < all; ++i) {
          parts[part].push_back(x[std::size_t(start + r) * stride + part * all + i] *
                                (part ? 1.0f : factor));
        }
      }
    }
    asa::attend(Precision::fp32, {length, heads, all, length}, parts[0].data(), parts[1].data(),
                parts[2].data(), own.data());
    expected.insert(expected.end(), own.begin(), own.end());
    got.insert(got.end(), found.begin() + std::size_t(start) * all,
               found.begin() + std::size_t(start + length) * all);
  }
  // Probabilities are rounded too, and then the output.
  return {relative_error(got, expected), 2 * rounding(check.format), device.time(check, work),
          operations, 2.0 * rows * (stride + all)};
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

HeadShape head_shape(bool large, int width, int layers) {
  return large ? HeadShape{width, 4, 128, 8, 32, 256, 4, layers + 1, 256, 2000}
               : HeadShape{width, 3, 20, 8, 6, 24, 3, layers + 1, 9, 30};
}

Outcome run_pool_head(const Check& check) {
  Device device;
  const int width = check.large ? 384 : 40, stride = round_up(width, 64);
  const RandomHead head(head_shape(check.large, width, check.large ? 4 : 1));
  const HeadShape& s = head.shape;
  const Windows windows = of_frames(lengths(check.large));
  const std::size_t count = windows.frames.size(), k = s.stats();
  const auto frames = noise(std::size_t(windows.rows()) * stride, 1.0f, 11);
  auto stats = noise(count * k, 1.0f, 12);
  std::vector<double> sums(count * k);
  std::vector<float> scores(count * s.aspects), prior(count * s.levels);
  std::vector<double> scratch(asa::head_scratch(s));
  std::vector<float> pooled;
  for (std::size_t w = 0; w < count; ++w) {
    std::vector<float> own;
    for (int r = windows.starts[w]; r < windows.starts[w + 1]; ++r) {
      own.insert(own.end(), frames.begin() + std::size_t(r) * stride,
                 frames.begin() + std::size_t(r) * stride + width);
    }
    float* row = stats.data() + w * k;
    for (int i = 0; i < s.sums(); ++i) {  // squares as large as their means demand
      float* square = row + k - s.sums() + i;
      *square = std::fabs(*square) + 1 + std::pow(square[-s.sums()], 2.0f);
    }
    kernels().pool.pool(own.data(), windows.frames[w], width, head.attention_weight.data(),
                        head.attention_bias.data(), s.heads, row);
    pooled.insert(pooled.end(), row, row + k);
    std::vector<float> total(row, row + k);
    for (std::size_t i = 0; i < k; ++i) {
      sums[w * k + i] = 0.5 * total[i];
      total[i] = float(sums[w * k + i] + total[i]);
    }
    kernels().head.run(s, head.weights, total.data(), scratch.data(), scores.data() + w * s.aspects,
                       prior.data() + w * s.levels);
    std::fill(row, row + k - 2 * s.sums(), NAN);  // for the kernel to write
  }
  HeadWeights there{};
  for (const HeadTensor& tensor : head_tensors(s)) {
    std::vector<float> padded;
    for (int r = 0; r < tensor.rows; ++r) {
      const float* from = head.weights.*tensor.member + std::size_t(r) * tensor.columns;
      padded.insert(padded.end(), from, from + tensor.columns);
      padded.resize(std::size_t(r + 1) * round_up(tensor.columns, 4));
    }
    there.*tensor.member = device.put(padded);
  }
  const Ragged ragged = windows.on(device);
  const PoolHead h{s,
                   there,
                   device.put(head.attention_weight),
                   device.put(head.attention_bias),
                   device.put(frames),
                   stride,
                   device.put(stats),
                   device.put(sums),
                   device.put(std::vector<int>{1}),
                   device.room<float>(std::size_t(ragged.strip_room) * pooled_sums(s)),
                   device.put(std::vector<unsigned>(count)),
                   device.room<float>(count * head_scratch_floats(s)),
                   device.room<float>(scores.size()),
                   device.room<float>(prior.size())};
  const auto work = [&] { pool_and_score(device.stream, h, ragged); };
  work();
  double error = relative_error(device.get(h.stats, pooled.size()), pooled);
  error = worse(error, relative_error(device.get(h.scores, scores.size()), scores));
  error = worse(error, relative_error(device.get(h.prior, prior.size()), prior));
  return {error, 1e-5, device.time(check, work), 0, 4.0 * frames.size()};
}

struct RandomEncoder {
  EncoderShape shape;
  std::vector<std::vector<float>> held;
  StemWeights stem{};
  std::vector<LayerWeights> layers;
  const float *final_weight, *final_bias;

  explicit RandomEncoder(const EncoderShape& s) : shape(s) {
    unsigned seed = 1000;
    const auto make = [&](std::size_t rows, std::size_t columns) {
      held.push_back(noise(rows * columns, 1.0f / std::sqrt(float(columns)), seed++));
      return held.back().data();
    };
    const auto vector = [&](std::size_t count, float mean) {
      held.push_back(noise(count, 0.1f, seed++));
      for (float& value : held.back()) value += mean;
      return held.back().data();
    };
    const std::size_t d = s.width, inner = s.inner;
    stem = {make(d, 3 * s.mels), vector(d, 0), make(d, 3 * d), vector(d, 0),
            vector(d * s.positions, 0)};
    for (int i = 0; i < s.layers; ++i) {
      layers.push_back({vector(d, 1), vector(d, 0), make(d, d), vector(d, 0), make(d, d),
                        make(d, d), vector(d, 0), make(d, d), vector(d, 0), vector(d, 1),
                        vector(d, 0), make(inner, d), vector(inner, 0), make(d, inner),
                        vector(d, 0)});
    }
    final_weight = vector(d, 1);
    final_bias = vector(d, 0);
  }

  template <class Encoder>
  void give(Encoder& to) const {
    to.set_stem(stem);
    for (std::size_t i = 0; i < layers.size(); ++i) to.set_layer(int(i), layers[i]);
    to.set_final_norm(final_weight, final_bias);
  }
};

// Sound to scores against the CPU's log-mel, encoder, pooling and head, all in float32; then that
// each window has the same bits alone, and that one with a NaN hurts no other.
Outcome run_model(const Check& check) {
  const EncoderShape shape =
      check.large ? EncoderShape{80, 384, 6, 1536, 4, 1500} : EncoderShape{20, 48, 3, 72, 2, 80};
  const RandomEncoder encoder(shape);
  const RandomHead head(head_shape(check.large, shape.width, shape.layers));
  const HeadShape& s = head.shape;
  std::vector<float> layer_weights;
  for (int i = 0; i <= shape.layers; ++i) layer_weights.push_back(0.1f + 0.2f * i);
  std::vector<int> sizes = {4003, 201, 16000 + 159, 320};
  if (check.large) {
    sizes.clear();
    for (int i = 0; i < 32; ++i) sizes.push_back(8000 + i * 13577 % 56000);
  }
  const std::size_t count = sizes.size(), k = s.stats();
  int all_frames = 0;
  for (int size : sizes) all_frames += (size / kHop + 1) / 2;
  Model model({shape, s}, Format(check.format), {int(count) + 1, all_frames + 70});
  encoder.give(model);
  model.set_head(head.weights, head.attention_weight.data(), head.attention_bias.data(),
                 layer_weights);
  asa::Encoder reference(shape, layer_precisions(Precision::fp32, shape.layers),
                         int(std::max(1u, std::thread::hardware_concurrency())));
  encoder.give(reference);

  std::vector<float> samples;
  Batch batch;
  batch.starts = {0};
  for (std::size_t w = 0; w < count; ++w) {
    const auto window = noise(sizes[w], 0.1f, 50 + unsigned(w));
    samples.insert(samples.end(), window.begin(), window.end());
    batch.starts.push_back(int(samples.size()));
  }
  struct Results {
    std::vector<float> stats, scores, prior, frames;
  };
  const auto run = [&](Batch b) {
    const std::size_t windows = b.starts.size() - 1;
    Results r{std::vector<float>(windows * k), std::vector<float>(windows * s.aspects),
              std::vector<float>(windows * s.levels),
              std::vector<float>(std::size_t(all_frames) * shape.width)};
    b.stats = r.stats.data();
    b.scores = r.scores.data();
    b.prior = r.prior.data();
    b.frames = r.frames.data();
    model.encode(b);
    return r;
  };
  batch.values = samples.data();
  const Results found = run(batch);

  std::vector<float> frames, moments, found_moments;
  for (std::size_t w = 0; w < count; ++w) {
    const int mel_frames = sizes[w] / kHop;
    std::vector<float> mel(std::size_t(shape.mels) * mel_frames);
    asa::log_mel(shape.mels, samples.data() + batch.starts[w], sizes[w], mel.data());
    std::vector<float> out(std::size_t((mel_frames + 1) / 2) * shape.width),
        sums(2 * std::size_t(shape.layers + 1) * shape.width);
    reference.encode({{mel.data(), mel_frames, out.data(), sums.data()}}, layer_weights);
    frames.insert(frames.end(), out.begin(), out.end());
    moments.insert(moments.end(), sums.begin(), sums.end());
    const auto* end = found.stats.data() + (w + 1) * k;
    found_moments.insert(found_moments.end(), end - sums.size(), end);
  }
  double error =
      std::max(relative_error(found.frames, frames), relative_error(found_moments, moments));

  // The head on the same statistics, whatever their error.
  std::vector<double> scratch(asa::head_scratch(s));
  std::vector<float> scores(count * s.aspects), prior(count * s.levels), again = scores,
                                                                         again_prior = prior;
  for (std::size_t w = 0; w < count; ++w) {
    kernels().head.run(s, head.weights, found.stats.data() + w * k, scratch.data(),
                       scores.data() + w * s.aspects, prior.data() + w * s.levels);
  }
  if (!(relative_error(found.scores, scores) < 1e-5)) error = kNever;
  model.score(found.stats.data(), int(count), again.data(), again_prior.data());
  if (again != found.scores || again_prior != found.prior) error = kNever;

  const auto same = [&](const std::vector<float>& one, std::size_t at,
                        const std::vector<float>& other, std::size_t other_at, std::size_t n) {
    return std::memcmp(one.data() + at * n, other.data() + other_at * n, n * sizeof(float)) == 0;
  };
  for (std::size_t w = 0; w < count; w += check.large ? 7 : 1) {
    Batch alone = batch;
    alone.values = samples.data() + batch.starts[w];
    alone.starts = {0, sizes[w]};
    const Results one = run(alone);
    if (!same(found.stats, w, one.stats, 0, k) ||
        !same(found.scores, w, one.scores, 0, s.aspects)) {
      error = kNever;
    }
  }
  const int hurt = 1;
  auto damaged = samples;
  damaged[batch.starts[hurt] + 100] = NAN;
  Batch other = batch;
  other.values = damaged.data();
  const Results beside = run(other);
  for (std::size_t w = 0; w < count; ++w) {
    const bool nan = std::isnan(beside.scores[w * s.aspects]);
    if (w == hurt ? !nan : !same(found.scores, w, beside.scores, w, s.aspects)) error = kNever;
  }
  double milliseconds = 0;
  if (check.runs) milliseconds = model.time(batch, check.runs);
  const double d = shape.width;
  const double operations =
      2.0 * all_frames *
      (6.0 * shape.mels * d + 3 * d * d + shape.layers * (4 * d * d + 2 * d * shape.inner));
  // Two layers' and the stem's roundings add up.
  return {error, 4 * rounding(check.format), milliseconds, operations, 0};
}

}  // namespace

std::vector<Check> checks(bool large, int runs) {
  std::vector<Check> all;
  for (int format : {int(Format::bf16), int(Format::fp16)}) {
    const std::string suffix = Format(format) == Format::bf16 ? " bf16" : " fp16";
    const auto add = [&](const char* name, Outcome (*run)(const Check&)) {
      all.push_back({name + suffix, run, large, runs, format});
    };
    add("log_mel", run_log_mel);
    add("gemm", run_gemm);
    add("layer_norm", run_layer_norm);
    add("attention", run_attention);
    add("pool_head", run_pool_head);
    add("model", run_model);
  }
  return all;
}

}  // namespace asa::cuda
