// A grader file small enough to be opened thousands of times, written here from the documented
// layout; its weights are noise.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "checks.h"
#include "sha256.h"

namespace asa::tests {

using Bytes = std::vector<std::uint8_t>;

class FileWriter {
 public:
  template <class T>
  FileWriter& put(T value) {
    const auto* from = reinterpret_cast<const std::uint8_t*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof(T));
    return *this;
  }
  FileWriter& text(const std::string& value) {
    put(static_cast<std::uint32_t>(value.size()));
    bytes.insert(bytes.end(), value.begin(), value.end());
    return *this;
  }
  FileWriter& numbers(const std::vector<double>& values) {
    put(static_cast<std::uint32_t>(values.size()));
    for (const double value : values) put(value);
    return *this;
  }

  Bytes bytes;
};

struct TinyTensor {
  std::string name;
  std::size_t count;
  float scale;
  std::string bytes = {};  // what it holds, where it is no tensor
  bool is_int8 = false;    // its scales come behind it
};

inline constexpr std::uint32_t kTinyWindow = 16000;

inline std::vector<TinyTensor> tiny_encoder(std::size_t positions) {
  constexpr std::size_t d = 16, inner = 32, mels = 16;
  std::vector<TinyTensor> all = {{"encoder.conv1.weight", d * mels * 3, 0.1f},
                                 {"encoder.conv1.bias", d, 0.1f},
                                 {"encoder.conv2.weight", d * d * 3, 0.1f},
                                 {"encoder.conv2.bias", d, 0.1f},
                                 {"encoder.embed_positions.weight", positions * d, 0.1f}};
  for (const char* layer : {"0.", "1."}) {
    const std::pair<const char*, std::size_t> parts[] = {{"self_attn_layer_norm.weight", d},
                                                         {"self_attn_layer_norm.bias", d},
                                                         {"self_attn.q_proj.weight", d * d},
                                                         {"self_attn.q_proj.bias", d},
                                                         {"self_attn.k_proj.weight", d * d},
                                                         {"self_attn.v_proj.weight", d * d},
                                                         {"self_attn.v_proj.bias", d},
                                                         {"self_attn.out_proj.weight", d * d},
                                                         {"self_attn.out_proj.bias", d},
                                                         {"final_layer_norm.weight", d},
                                                         {"final_layer_norm.bias", d},
                                                         {"fc1.weight", inner * d},
                                                         {"fc1.bias", inner},
                                                         {"fc2.weight", d * inner},
                                                         {"fc2.bias", d}};
    for (const auto& [name, count] : parts) {
      all.push_back({"encoder.layers." + std::string(layer) + name, count, 0.2f});
    }
  }
  all.push_back({"encoder.layer_norm.weight", d, 1});
  all.push_back({"encoder.layer_norm.bias", d, 0.1f});
  return all;
}

inline std::vector<TinyTensor> tiny_voice() {
  return {{"voice.basis", 258 * 256, 0},
          {"voice.convolution.0.weight", 128 * 3 * 129, 0},
          {"voice.convolution.1.weight", 64 * 3 * 128, 0},
          {"voice.convolution.2.weight", 64 * 3 * 64, 0},
          {"voice.convolution.3.weight", 128 * 3 * 64, 0},
          {"voice.convolution.0.bias", 128, 0},
          {"voice.convolution.1.bias", 64, 0},
          {"voice.convolution.2.bias", 64, 0},
          {"voice.convolution.3.bias", 128, 0},
          {"voice.lstm.weight", 512 * 256, 0},
          {"voice.lstm.bias", 512, 0},
          {"voice.output.weight", 128, 0},
          {"voice.output.bias", 1, 0}};
}

inline std::vector<TinyTensor> tiny_tensors() {
  constexpr std::size_t d = 16, heads = 2;
  std::vector<TinyTensor> all = tiny_encoder(50);
  constexpr std::size_t pooled = (2 + heads) * d, hidden = 8, prior = 8, levels = 3, place = 4;
  constexpr std::size_t embedding = 4, aspects = 2, centres = 5, sums = 3 * d;
  const TinyTensor head[] = {{"layer_weights", 3, 1},
                             {"attention.weight", heads * d, 0.3f},
                             {"attention.bias", heads, 0.3f},
                             {"prior_norm.weight", d, 1},
                             {"prior_norm.bias", d, 0.1f},
                             {"prior_fc1.weight", prior * d, 0.3f},
                             {"prior_fc1.bias", prior, 0.1f},
                             {"prior_fc2.weight", levels * prior, 0.3f},
                             {"prior_fc2.bias", levels, 0.1f},
                             {"prior_projector.weight", embedding * levels, 0.3f},
                             {"prior_projector.bias", embedding, 0.1f},
                             {"pool_norms.weight", pooled, 1},
                             {"pool_norms.bias", pooled, 0.1f},
                             {"head_fc1.weight", hidden * (pooled + embedding + 1), 0.2f},
                             {"head_fc1.bias", hidden, 0.1f},
                             {"head_fc2.weight", aspects * hidden, 0.3f},
                             {"head_fc2.bias", aspects, 0.1f},
                             {"score_mean", aspects, 3},
                             {"score_std", aspects, 1},
                             {"blend", aspects, 0.3f},
                             {"kernel_projection", place * 2 * sums, 0.1f},
                             {"kernel_bias", place, 0.1f},
                             {"kernel_duration", 1, 0.1f},
                             {"kernel_centres", centres * (place + 1), 1},
                             {"kernel_weights", aspects * centres, 0.3f},
                             {"kernel_mean", aspects, 1}};
  all.insert(all.end(), std::begin(head), std::end(head));
  const std::vector<TinyTensor> voice = tiny_voice();
  all.insert(all.end(), std::begin(voice), std::end(voice));
  return all;
}

// States size and hash anew, so that what was changed behind the header is looked at.
inline void seal(Bytes& file) {
  const std::uint64_t size = file.size();
  std::memcpy(file.data() + 16, &size, sizeof(size));
  Sha256 hash;
  hash.update(file.data() + 64, file.size() - 64);
  const Sha256::Digest digest = hash.digest();
  std::copy(digest.begin(), digest.end(), file.begin() + 32);
}

// Bytes of the description of a sealed file.
inline std::size_t described_bytes(const Bytes& file) {
  std::uint32_t size;
  std::memcpy(&size, file.data() + 12, sizeof(size));
  return size;
}

inline FileWriter tiny_description(std::uint32_t front) {
  FileWriter about;
  for (const char* text : {"acoustic", "tiny", "1", "none", "0.0.0", "fp32"}) about.text(text);
  const std::uint32_t numbers[] = {16, 16,    2, 2, 32, 50, kTinyWindow, 1600,
                                   0,  front, 2, 8, 4,  8,  5,           4};
  for (const std::uint32_t number : numbers) about.put(number);
  about.numbers({1, 2, 3}).put(std::uint32_t{2});
  about.text("fluency").put(0.0).put(5.0).numbers({1.5, 3.5}).put(std::uint32_t{3});
  about.text("low").text("\"middle\"").text("high").put(std::uint32_t{2});
  about.put(1.0).put(0.9).put(3.0).put(0.5);
  return about.text("overall").put(0.0).put(10.0).numbers({}).put(std::uint64_t{0});
}

enum class Numbers { wide, narrow };

// Numbers of float32 of which each is 0 or from 2^-30 to below 2, or zeros of float16, without
// the bits that all have alike.
inline void put_narrow(FileWriter& body, const std::vector<float>& values, int bits) {
  std::vector<bool> line;
  for (const float value : values) {
    std::uint32_t all;
    std::memcpy(&all, &value, sizeof(all));
    const bool fits = all << 1 == 0 || (all >> 28 & 7) == 3;
    check(fits, "a number that has no narrow form");
    for (int bit = 0; bit < bits; ++bit) line.push_back(all >> (bit < bits - 1 ? bit : 31) & 1);
  }
  line.resize((line.size() + 7) / 8 * 8);
  for (std::size_t at = 0; at < line.size(); at += 8) {
    std::uint8_t byte = 0;
    for (int bit = 0; bit < 8; ++bit) byte |= line[at + bit] << bit;
    body.put(byte);
  }
}

// A sealed file of a description and tensors of noise.
inline Bytes laid_out(FileWriter about, const std::vector<TinyTensor>& tensors,
                      Numbers numbers = Numbers::wide) {
  std::vector<TinyTensor> all;
  for (const TinyTensor& tensor : tensors) {
    all.push_back(tensor);
    if (tensor.is_int8) all.push_back({tensor.name + ".scale", tensor.count / 128, 0.01f});
  }
  std::size_t listed = sizeof(std::uint32_t);
  for (const TinyTensor& tensor : all) listed += 4 + tensor.name.size() + 20;
  const std::size_t described = about.bytes.size() + listed;
  FileWriter file;
  for (const char c : {'A', 'S', 'A', 'D', 'E', 'V', '\r', '\n'}) file.put(c);
  const bool is_narrow = numbers == Numbers::narrow;
  file.put(is_narrow ? std::uint32_t{2} : std::uint32_t{1});
  file.put(static_cast<std::uint32_t>(described));
  file.bytes.resize(64);
  FileWriter body;
  about.put(static_cast<std::uint32_t>(all.size()));
  unsigned seed = 0;
  for (const TinyTensor& tensor : all) {
    body.bytes.resize((64 + described + body.bytes.size() + 63) / 64 * 64 - 64 - described);
    const bool is_half = tensor.scale == 0 && tensor.count > 1;  // zeros, in half the bytes
    std::uint32_t type = !tensor.bytes.empty() ? 3 : tensor.is_int8 ? 2 : is_half;
    if (is_narrow && type == 1) type = 4;
    if (is_narrow && type == 0 && tensor.scale > 0 && tensor.scale < 0.5f) type = 5;
    const std::size_t count = type == 3 ? tensor.bytes.size() : tensor.count;
    about.text(tensor.name).put(type);
    about.put<std::uint64_t>(64 + described + body.bytes.size());
    about.put(static_cast<std::uint64_t>(count));
    const std::vector<float> values = noise(count, tensor.scale, ++seed);
    if (type == 3) {
      body.bytes.insert(body.bytes.end(), tensor.bytes.begin(), tensor.bytes.end());
    } else if (type == 2) {
      for (const float value : values) {
        body.put(static_cast<std::int8_t>(std::fmin(std::fmax(100 * value, -127), 127)));
      }
    } else if (type > 3) {
      put_narrow(body, values, type == 4 ? 15 : 29);
    } else if (is_half) {
      body.bytes.resize(body.bytes.size() + 2 * tensor.count);
    } else if (tensor.scale == 0) {
      body.put(5.0f);
    } else {
      for (const float value : values) {
        body.put(tensor.name.find("scale") == std::string::npos ? value : std::fabs(value) + 0.01f);
      }
    }
  }
  file.bytes.insert(file.bytes.end(), about.bytes.begin(), about.bytes.end());
  file.bytes.insert(file.bytes.end(), body.bytes.begin(), body.bytes.end());
  seal(file.bytes);
  return file.bytes;
}

// front: 0 whole, 1 levelled, 2 gated. Its detector takes every frame for speech that is louder
// than the quietest.
inline Bytes tiny_file(std::uint32_t front = 2, Numbers numbers = Numbers::wide) {
  return laid_out(tiny_description(front), tiny_tensors(), numbers);
}

// Bursts of noise over a quiet floor: what the tiny detector takes for speech.
inline std::vector<float> bursts(double seconds, unsigned seed) {
  std::vector<float> samples = noise(static_cast<std::size_t>(16000 * seconds), 1.0f, seed);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    samples[i] *= i / 4000 % 2 ? 0.05f : 0.0005f;
    samples[i] = std::fmin(std::fmax(samples[i], -1.0f), 1.0f);
  }
  return samples;
}

}  // namespace asa::tests
