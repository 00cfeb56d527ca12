#include "grader.h"

#include <cstdint>
#include <stdexcept>

#include "asa/head_tensors.h"
#include "asa/isa.h"
#include "asa/log_mel.h"
#include "json.h"
#include "shelf.h"

namespace asa {
namespace {

Precision precision_of(const std::string& name) {
  if (name == "fp32") return Precision::fp32;
  if (name == "bf16") return Precision::bf16;
  if (name == "int8") return Precision::int8;
  throw std::invalid_argument("the precision is \"" + name + "\"; take fp32, bf16 or int8");
}

}  // namespace

Grader::Grader(const DeviceFile& file, const char* precision, int threads)
    : config_(file.config()), file_sha256_(file.sha256()) {
  precision_ = precision ? precision : config_.precision;
  read_encoder(file, threads);
  if (config_.reading) {
    reading_ = std::make_unique<ReadingModel>(file, config_, precision_of(precision_), *encoder_);
  } else {
    read_head(file);
  }
  read_voice(file);
  file.expect_all_read();
  describe();
}

void Grader::read_encoder(const DeviceFile& file, int threads) {
  const EncoderShape& s = config_.encoder;
  const Precision precision = precision_of(precision_);
  encoder_ = std::make_unique<Encoder>(s, layer_precisions(precision, s.layers), threads);
  const std::uint64_t width = s.width, inner = s.inner, mels = s.mels, positions = s.positions;
  std::vector<float> values;
  {
    StemWeights w;
    Shelf shelf(file, values);
    shelf.add("encoder.conv1.weight", width * mels * kKernel, &w.conv1_weight);
    shelf.add("encoder.conv1.bias", width, &w.conv1_bias);
    shelf.add("encoder.conv2.weight", width * width * kKernel, &w.conv2_weight);
    shelf.add("encoder.conv2.bias", width, &w.conv2_bias);
    shelf.add("encoder.embed_positions.weight", positions * width, &w.positions);
    shelf.point();
    encoder_->set_stem(w);
  }
  for (int layer = 0; layer < s.layers; ++layer) {
    const std::string prefix = "encoder.layers." + std::to_string(layer) + ".";
    LayerWeights w;
    values.clear();
    Shelf shelf(file, values);
    const auto add = [&](const char* name, std::uint64_t count, const float** to) {
      shelf.add(prefix + name, count, to);
    };
    add("self_attn_layer_norm.weight", width, &w.norm1_weight);
    add("self_attn_layer_norm.bias", width, &w.norm1_bias);
    add("self_attn.q_proj.weight", width * width, &w.q_weight);
    add("self_attn.q_proj.bias", width, &w.q_bias);
    add("self_attn.k_proj.weight", width * width, &w.k_weight);
    add("self_attn.v_proj.weight", width * width, &w.v_weight);
    add("self_attn.v_proj.bias", width, &w.v_bias);
    add("self_attn.out_proj.weight", width * width, &w.o_weight);
    add("self_attn.out_proj.bias", width, &w.o_bias);
    add("final_layer_norm.weight", width, &w.norm2_weight);
    add("final_layer_norm.bias", width, &w.norm2_bias);
    add("fc1.weight", inner * width, &w.fc1_weight);
    add("fc1.bias", inner, &w.fc1_bias);
    add("fc2.weight", width * inner, &w.fc2_weight);
    add("fc2.bias", width, &w.fc2_bias);
    shelf.point();
    encoder_->set_layer(layer, w);
  }
  encoder_->set_final_norm(file.read("encoder.layer_norm.weight", width).data(),
                           file.read("encoder.layer_norm.bias", width).data());
}

void Grader::read_head(const DeviceFile& file) {
  const HeadShape& s = config_.head;
  const std::uint64_t width = s.width, heads = s.heads;
  mix_ = file.read("layer_weights", config_.encoder.layers + 1);
  attention_weight_ = file.read("attention.weight", heads * width);
  attention_bias_ = file.read("attention.bias", heads);
  Shelf shelf(file, head_values_);
  for (const HeadTensor& tensor : head_tensors(s)) {
    shelf.add(tensor.name, tensor.count, &(head_.*tensor.place));
  }
  shelf.point();
}

void Grader::read_voice(const DeviceFile& file) {
  constexpr std::uint64_t width = kVoiceWidth;
  Shelf shelf(file, voice_values_);
  shelf.add("voice.basis", 2 * kVoiceBins * kVoiceWindow, &voice_.basis);
  for (int i = 0; i < kVoiceConvolutions; ++i) {
    const VoiceConvolution& shape = kVoiceShapes[i];
    const std::string prefix = "voice.convolution." + std::to_string(i);
    shelf.add(prefix + ".weight", shape.out * kVoiceTaps * shape.in, &voice_.convolution[i]);
    shelf.add(prefix + ".bias", shape.out, &voice_.bias[i]);
  }
  shelf.add("voice.lstm.weight", 4 * width * 2 * width, &voice_.lstm);
  shelf.add("voice.lstm.bias", 4 * width, &voice_.lstm_bias);
  shelf.add("voice.output.weight", width, &voice_.output);
  shelf.add("voice.output.bias", 1, &voice_.output_bias);
  shelf.point();
}

void Grader::encode(const float* mel, int mel_frames, std::vector<double>& stats) const {
  const HeadShape& s = config_.head;
  std::vector<float> sums(s.stats());
  Sequence sequence{.mel = mel, .mel_frames = mel_frames, .out = nullptr};
  std::vector<float> frames(static_cast<std::size_t>(sequence.frames()) * s.width);
  sequence.out = frames.data();
  if (s.outputs) sequence.moments = sums.data() + sums.size() - 2 * std::size_t(s.sums());
  encoder_->encode({sequence}, mix_);
  kernels().pool.pool(frames.data(), sequence.frames(), s.width, attention_weight_.data(),
                      attention_bias_.data(), s.heads, sums.data());
  stats.resize(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i) stats[i] += sums[i];
}

HeadOutput Grader::head(const std::vector<double>& stats) const {
  HeadOutput out{std::vector<float>(config_.head.aspects), std::vector<float>(config_.head.levels)};
  const std::vector<float> sums(stats.begin(), stats.end());
  std::vector<double> scratch(head_scratch(config_.head));
  kernels().head.run(config_.head, head_, sums.data(), scratch.data(), out.scores.data(),
                     out.prior.data());
  return out;
}

void Grader::describe() {
  JsonWriter json;
  json.open().name("grader").text(config_.grader);
  json.name("bundle").open().name("name").text(config_.bundle);
  json.name("version").text(config_.bundle_version);
  json.name("sha256").text(config_.bundle_sha256).close();
  json.name("file_sha256").text(file_sha256_);
  json.name("precision").text(precision_).name("threads").number(std::size_t(threads()));
  json.name("kernel_isa").text(kernels().isa);
  json.name("sample_rate_hz").number(std::size_t{kSampleRate});
  json.name("channels").number(std::size_t{1}).name("aspects").open_list();
  for (const Aspect& aspect : config_.aspects) {
    json.open().name("name").text(aspect.name);
    json.name("scale_min").number(aspect.scale_min);
    json.name("scale_max").number(aspect.scale_max).close();
  }
  json.close_list().name("reads_texts").truth(reading_ != nullptr).close();
  description_ = json.str();
}

}  // namespace asa
