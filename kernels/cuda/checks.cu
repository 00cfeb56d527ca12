#include "asa/attend.h"
#include "asa/cuda/attention.h"
#include "asa/cuda/gemm.h"
#include "asa/cuda/layer_norm.h"
#include "asa/cuda/log_mel.h"
#include "asa/cuda/pool_head.h"
#include "asa/isa.h"
#include "check_support.h"
#include "checks.h"

namespace asa::cuda {
namespace {

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
