#include "reading_model.h"

#include <algorithm>
#include <stdexcept>

#include "asa/log_mel.h"
#include "cursor.h"
#include "shelf.h"

namespace asa {
namespace {

constexpr std::size_t kQuietSamples = 2 * kSampleRate;
constexpr char kEmbeddings[] = "decoder.embeddings/weight";

// Looks whether the largest tensor is there before room is made for it.
const DecoderShape& checked(const DeviceFile& file, const DecoderShape& shape) {
  std::vector<float> none;
  file.read_part(kEmbeddings, static_cast<std::uint64_t>(shape.tokens) * shape.width, 0, 0, none);
  return shape;
}

Precision checked(Precision precision) {
  if (precision == Precision::bf16) {
    throw std::invalid_argument("the pronunciation grader runs at fp32 or int8; take one of them");
  }
  return precision;
}

Table table_of(const DeviceFile& file, const std::string& name, int rows, int cols) {
  Table table(rows, cols);
  table.values = file.read(name, table.values.size());
  return table;
}

}  // namespace

ReadingModel::ReadingModel(const DeviceFile& file, const GraderConfig& config, Precision precision,
                           Encoder& encoder)
    : config_(config),
      encoder_(encoder),
      reader_(file.bytes("reader.dictionary"), file.bytes("reader.letters"),
              file.bytes("reader.characters"), file.bytes("reader.abbreviations")),
      vocabulary_(file.bytes("reader.vocabulary"), config.reading->decoder.tokens),
      phones_(file, 2 * config.encoder.width, config.reading->phone_hidden),
      judge_(file, config.reading->judge, config.encoder.layers, config.encoder.width),
      mismatch_(file, "mismatch", kReadingNumbers, config.reading->verdict_hidden),
      omission_(file, "omission", kWordAsked, config.reading->verdict_hidden),
      insertion_(file, "insertion", kGapScalars, config.reading->verdict_hidden),
      usual_(table_of(file, "usual", kClasses, 2)),
      decoder_(checked(file, config.reading->decoder), checked(precision)) {
  read_decoder(file);
  const int layers = config.encoder.layers + 1;
  last_two_.resize(2 * static_cast<std::size_t>(layers));
  last_two_[layers - 2] = last_two_[2 * layers - 1] = 1;
  const std::vector<float> nothing(kQuietSamples);
  std::vector<float> mel(config.encoder.mels * kQuietSamples / kHop);
  log_mel(config.encoder.mels, nothing.data(), nothing.size(), mel.data());
  const int most = std::min<int>(kQuietSamples / kHop, 2 * config.encoder.positions);
  if (most < static_cast<int>(kQuietSamples / kHop)) damaged("its encoder hears less than 2 s");
  Table frames;
  std::vector<double> moments;
  encode(mel.data(), most, frames, moments);
  const int width = config.encoder.width;
  silence_ = Table(frames.rows, width);
  for (int t = 0; t < frames.rows; ++t) std::copy_n(frames[t] + width, width, silence_[t]);
}

void ReadingModel::read_decoder(const DeviceFile& file) {
  const DecoderShape& s = decoder_.shape();
  const std::uint64_t width = s.width, inner = s.inner, tokens = s.tokens;
  std::vector<float> values;
  for (std::uint64_t first = 0; first < tokens; first += Decoder::kTokens) {
    const std::uint64_t end = std::min<std::uint64_t>(first + Decoder::kTokens, tokens);
    values.clear();
    file.read_part(kEmbeddings, tokens * width, first * width, end * width, values);
    decoder_.set_tokens(static_cast<int>(first), values.data(), static_cast<int>(end - first));
  }
  decoder_.set_positions(
      file.read("decoder.position_encodings/encodings", s.positions * width).data());
  for (int layer = 0; layer < s.layers; ++layer) {
    DecoderLayerWeights w;
    values.clear();
    Shelf shelf(file, values);
    const std::string prefix = "decoder.layer_" + std::to_string(layer) + "/";
    const auto norm = [&](const std::string& part, const float** weight, const float** bias) {
      shelf.add(prefix + part + "/layer_norm/gamma", width, weight);
      shelf.add(prefix + part + "/layer_norm/beta", width, bias);
    };
    const auto linear = [&](const std::string& part, std::uint64_t in, std::uint64_t out,
                            const float** weight, const float** bias) {
      shelf.add(prefix + part + "/weight", in * out, weight);
      shelf.add(prefix + part + "/bias", out, bias);
    };
    norm("self_attention", &w.norm1_weight, &w.norm1_bias);
    linear("self_attention/linear_0", width, 3 * width, &w.qkv_weight, &w.qkv_bias);
    linear("self_attention/linear_1", width, width, &w.o_weight, &w.o_bias);
    norm("attention", &w.norm2_weight, &w.norm2_bias);
    linear("attention/linear_0", width, width, &w.cross_q_weight, &w.cross_q_bias);
    linear("attention/linear_1", width, 2 * width, &w.cross_kv_weight, &w.cross_kv_bias);
    linear("attention/linear_2", width, width, &w.cross_o_weight, &w.cross_o_bias);
    norm("ffn", &w.norm3_weight, &w.norm3_bias);
    linear("ffn/linear_0", width, inner, &w.fc1_weight, &w.fc1_bias);
    linear("ffn/linear_1", inner, width, &w.fc2_weight, &w.fc2_bias);
    shelf.point();
    decoder_.set_layer(layer, w);
  }
  decoder_.set_final_norm(file.read("decoder.layer_norm/gamma", width).data(),
                          file.read("decoder.layer_norm/beta", width).data());
}

void ReadingModel::encode(const float* mel, int mel_frames, Table& frames,
                          std::vector<double>& moments) const {
  const int width = config_.encoder.width;
  std::vector<float> sums(2 * std::size_t(config_.encoder.layers + 1) * width);
  Sequence sequence{.mel = mel, .mel_frames = mel_frames, .out = nullptr};
  const std::size_t before = frames.values.size();
  frames.cols = 2 * width;
  frames.rows += sequence.frames();
  frames.values.resize(before + static_cast<std::size_t>(sequence.frames()) * frames.cols);
  sequence.out = frames.values.data() + before;
  sequence.moments = sums.data();
  encoder_.encode({sequence}, last_two_);
  moments.resize(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i) moments[i] += sums[i];
}

ReadingModel::Forced ReadingModel::write(const Table& frames,
                                         const std::vector<int>& tokens) const {
  std::vector<int> all = vocabulary_.prompt();
  const int prompt = static_cast<int>(all.size());
  all.insert(all.end(), tokens.begin(), tokens.end());
  all.push_back(vocabulary_.end());
  const int rows = static_cast<int>(all.size()) - prompt;
  Forced found;
  for (auto* values : {&found.own, &found.best, &found.rank, &found.entropy, &found.att_entropy,
                       &found.att_peak}) {
    values->resize(rows);
  }
  found.other.resize(rows);
  found.attended = Table(rows, frames.rows);
  std::vector<std::int32_t> other(rows), rank(rows);
  std::vector<float> states(static_cast<std::size_t>(rows) * frames.cols);
  const asa::Forced out = {.own = found.own.data(),
                           .best = found.best.data(),
                           .other = other.data(),
                           .rank = rank.data(),
                           .entropy = found.entropy.data(),
                           .attended = found.attended.values.data(),
                           .attended_entropy = found.att_entropy.data(),
                           .attended_peak = found.att_peak.data(),
                           .states = states.data()};
  {
    const std::lock_guard<std::mutex> turn(turn_);
    decoder_.start(frames.values.data(), frames.rows);
    decoder_.force(all, prompt, config_.reading->alignment_heads, out);
  }
  found.other.assign(other.begin(), other.end());
  found.rank.assign(rank.begin(), rank.end());
  for (const auto* values : {&found.own, &found.best, &found.entropy}) check_numbers(*values);
  return found;
}

std::vector<float> ReadingModel::write_quiet(const std::vector<int>& tokens) const {
  return write(silence_, tokens).own;
}

}  // namespace asa
