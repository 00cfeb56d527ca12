// A token costs one pass over all matrices, most of it the projection to tokens. Keys and values of
// the speech are packed once, as panels that a plain product with one row streams through.
#include "asa/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace asa {
namespace {

// Replaces scores by their softmax.
void softmax(float* scores, int count) {
  const float top = *std::max_element(scores, scores + count);
  float total = 0.0f;
  for (int i = 0; i < count; ++i) total += scores[i] = std::exp(scores[i] - top);
  for (int i = 0; i < count; ++i) scores[i] /= total;
}

std::size_t packed_words(Precision precision, int in, int rows) {
  return static_cast<std::size_t>(chunks_of(precision, in)) * kChunkWords * rows;
}

}  // namespace

Decoder::Decoder(const DecoderShape& shape, Precision precision)
    : shape_(shape), kernels_(kernels()) {
  const auto in = [](int value, int most) { return value >= 1 && value <= most; };
  if (!in(shape.width, 8192) || !in(shape.heads, 256) || !in(shape.inner, 32768) ||
      !in(shape.layers, 256) || !in(shape.tokens, 1 << 20) || !in(shape.positions, 1 << 16) ||
      shape.width % shape.heads || precision == Precision::bf16) {
    throw std::invalid_argument("not the shape or precision of a Whisper decoder");
  }
  const bool has_bf16 = std::strcmp(kernels_.isa, "avx512_bf16") == 0;
  inner_ = precision;
  dense_ = precision == Precision::int8 && has_bf16 ? Precision::bf16 : Precision::fp32;
  const int panel = kernels_.gemm.geometry.panel, tile = kernels_.gemm.geometry.rows;
  stride_ = round_up(shape.width, kGroup);
  head_width_ = round_up(shape.width / shape.heads, panel);
  layers_.resize(shape.layers);
  const int all = shape.heads * head_width_;
  const int widest = std::max({shape.width, all, shape.inner});
  state_ = Buffer(stride_);
  mixed_ = Buffer(std::max(round_up(3 * shape.width, panel), all) + kGroup);
  context_ = Buffer(std::max(stride_, all + kGroup));
  logits_ = Buffer(round_up(shape.tokens, panel));
  staging_ = Buffer(std::max(stride_, tile * kGroup));
  for (Buffer* buffer : {&input_, &hidden_}) {
    *buffer = Buffer(packed_words(Precision::fp32, widest, tile));
  }
  for (Buffer* buffer : {&input_scale_, &hidden_scale_}) {
    *buffer = Buffer(static_cast<std::size_t>(2) * tile * chunks_of(Precision::int8, widest));
  }
}

void Decoder::pack(PackedLinear& to, Precision precision, const float* weight, const float* bias,
                   int in, int out) const {
  to.precision = precision;
  to.in = in;
  to.out = round_up(out, kernels_.gemm.geometry.panel);
  const std::size_t groups = chunks_of(precision, in);
  to.panel_buffer = Buffer(static_cast<std::size_t>(words_of(precision, in)) * to.out);
  to.bias_buffer = Buffer(to.out);
  if (precision == Precision::int8) {
    to.scale_buffer = Buffer(groups * to.out);
    to.sum_buffer = Buffer(groups * to.out);
  }
  to.panels = to.panel_buffer.ints();
  to.bias = to.bias_buffer.floats();
  to.scale = to.scale_buffer.floats();
  to.sum = to.sum_buffer.floats();
  std::vector<float> padded_weight, padded_bias(to.out);
  if (to.out != out) {
    padded_weight.resize(static_cast<std::size_t>(in) * to.out);
    std::memcpy(padded_weight.data(), weight, sizeof(float) * in * out);
    weight = padded_weight.data();
  }
  if (bias) std::memcpy(padded_bias.data(), bias, sizeof(float) * out);
  kernels_.gemm.pack(weight, padded_bias.data(), to);
}

Decoder::Norm Decoder::norm(const float* weight, const float* bias) const {
  Norm to{Buffer(stride_), Buffer(stride_)};
  std::memcpy(to.weight.floats(), weight, sizeof(float) * shape_.width);
  std::memcpy(to.bias.floats(), bias, sizeof(float) * shape_.width);
  return to;
}

void Decoder::set_embeddings(const float* tokens, const float* positions) {
  pack(tokens_, inner_, tokens, nullptr, shape_.width, shape_.tokens);
  const std::size_t count = static_cast<std::size_t>(shape_.positions) * shape_.width;
  positions_ = Buffer(count);
  std::memcpy(positions_.floats(), positions, sizeof(float) * count);
  embeddings_set_ = true;
}

void Decoder::set_layer(int index, const DecoderLayerWeights& w) {
  if (index != layers_set_ || index >= shape_.layers)
    throw std::logic_error("layers are set in order, once");
  const int width = shape_.width, real = width / shape_.heads, all = shape_.heads * head_width_;
  const float factor = 1.0f / std::sqrt(static_cast<float>(real));
  // Heads padded to whole panels, in the outputs of q, k and v and in the inputs of o.
  const auto padded_row = [&](int row) { return row / real * head_width_ + row % real; };
  const auto pad_outputs = [&](const float* from, int in, float scale) {
    std::vector<float> to(static_cast<std::size_t>(all) * in);
    for (int row = 0; row < width; ++row) {
      const std::size_t at = static_cast<std::size_t>(padded_row(row)) * in;
      for (int i = 0; i < in; ++i)
        to[at + i] = from[static_cast<std::size_t>(row) * in + i] * scale;
    }
    return to;
  };
  std::vector<float> cross_o(static_cast<std::size_t>(width) * all);
  for (int row = 0; row < width; ++row) {
    for (int i = 0; i < width; ++i) {
      cross_o[static_cast<std::size_t>(row) * all + padded_row(i)] =
          w.cross_o_weight[static_cast<std::size_t>(row) * width + i];
    }
  }
  std::vector<float> qkv(w.qkv_weight, w.qkv_weight + static_cast<std::size_t>(3) * width * width);
  std::vector<float> qkv_bias(w.qkv_bias, w.qkv_bias + 3 * width);
  for (std::size_t i = 0; i < static_cast<std::size_t>(width) * width; ++i) qkv[i] *= factor;
  for (int i = 0; i < width; ++i) qkv_bias[i] *= factor;
  const float* cross_v = w.cross_kv_weight + static_cast<std::size_t>(width) * width;

  Layer& to = layers_[index];
  to.norm1 = norm(w.norm1_weight, w.norm1_bias);
  to.norm2 = norm(w.norm2_weight, w.norm2_bias);
  to.norm3 = norm(w.norm3_weight, w.norm3_bias);
  pack(to.qkv, inner_, qkv.data(), qkv_bias.data(), width, 3 * width);
  pack(to.o, inner_, w.o_weight, w.o_bias, width, width);
  pack(to.cross_q, inner_, pad_outputs(w.cross_q_weight, width, factor).data(),
       pad_outputs(w.cross_q_bias, 1, factor).data(), width, all);
  pack(to.cross_k, dense_, pad_outputs(w.cross_kv_weight, width, 1).data(),
       pad_outputs(w.cross_kv_bias, 1, 1).data(), width, all);
  pack(to.cross_v, dense_, pad_outputs(cross_v, width, 1).data(),
       pad_outputs(w.cross_kv_bias + width, 1, 1).data(), width, all);
  pack(to.cross_o, inner_, cross_o.data(), w.cross_o_bias, all, width);
  pack(to.fc1, inner_, w.fc1_weight, w.fc1_bias, width, shape_.inner);
  pack(to.fc2, inner_, w.fc2_weight, w.fc2_bias, shape_.inner, width);
  to.past_keys = Buffer(static_cast<std::size_t>(width) * shape_.positions);
  to.past_values = Buffer(static_cast<std::size_t>(width) * shape_.positions);
  ++layers_set_;
}

void Decoder::set_final_norm(const float* weight, const float* bias) {
  final_ = norm(weight, bias);
  final_set_ = true;
}

void Decoder::start(const float* frames, int count) {
  if (!embeddings_set_ || !final_set_ || layers_set_ != shape_.layers) {
    throw std::logic_error("the decoder's weights are not all set");
  }
  if (count < 1 || count > 1 << 16) throw std::invalid_argument("frames must be 1 to 65536");
  const int tile = kernels_.gemm.geometry.rows, panel = kernels_.gemm.geometry.panel;
  const int padded = round_up(count, tile);
  frames_ = count;
  length_ = 0;
  key_panels_ = (padded + panel - 1) / panel;
  const int keys = key_panels_ * panel;
  speech_ = Buffer(static_cast<std::size_t>(padded) * stride_);
  for (int row = 0; row < count; ++row) {
    std::memcpy(speech_.floats() + static_cast<std::size_t>(row) * stride_,
                frames + static_cast<std::size_t>(row) * shape_.width,
                sizeof(float) * shape_.width);
  }
  speech_input_.reserve(packed_words(dense_, shape_.width, padded));
  const Rows input = {dense_, shape_.width, speech_input_.ints(), nullptr};
  kernels_.gemm.put_rows(speech_.floats(), stride_, padded, input);
  zeros_.reserve(std::max(keys, head_width_));
  scores_.reserve(keys + kGroup);
  input_.reserve(packed_words(Precision::fp32, std::max(keys, shape_.inner), tile));
  const std::size_t words =
      static_cast<std::size_t>(shape_.heads) * head_width_ * keys / inputs_per_word(dense_);
  for (Layer& layer : layers_) {
    layer.speech_keys.reserve(words);
    layer.speech_values.reserve(words);
    const Attention view = {.precision = dense_,
                            .heads = shape_.heads,
                            .head_width = head_width_,
                            .length = count,
                            .queries = nullptr,
                            .keys = layer.speech_keys.ints(),
                            .values = layer.speech_values.ints(),
                            .key_panels = key_panels_,
                            .key_words = keys / inputs_per_word(dense_)};
    kernels_.gemm.keys(input, layer.cross_k, padded, view, 0);
    kernels_.gemm.values(input, layer.cross_v, padded, view, 0);
  }
}

Rows Decoder::rows(const Linear& next) const {
  return {next.precision, next.in, input_.ints(), input_scale_.floats()};
}

void Decoder::normalise(const Norm& norm, const Linear& next) {
  kernels_.layer_norm.put(state_.floats(), stride_, 1, norm.weight.floats(), norm.bias.floats(),
                          rows(next), staging_.floats());
}

void Decoder::embed(int token) {
  const int panel = kernels_.gemm.geometry.panel;
  const int words = words_of(inner_, shape_.width);
  const int32_t* lane =
      tokens_.panels + static_cast<std::size_t>(token / panel) * words * panel + token % panel;
  const float* position = positions_.floats() + static_cast<std::size_t>(length_) * shape_.width;
  float* to = state_.floats();
  for (int i = 0; i < shape_.width; ++i) {
    float value;
    if (inner_ == Precision::fp32) {
      std::memcpy(&value, lane + static_cast<std::size_t>(i) * panel, sizeof(float));
    } else {
      int8_t bytes[4];
      std::memcpy(bytes, lane + static_cast<std::size_t>(i / 4) * panel, sizeof(bytes));
      value = float(bytes[i % 4]) *
              tokens_.scale[static_cast<std::size_t>(i / kGroup) * tokens_.out + token];
    }
    to[i] = value + position[i];
  }
}

void Decoder::attend_past(const Layer& layer) {
  const int width = shape_.width, real = width / shape_.heads, count = length_ + 1;
  const float* qkv = mixed_.floats();
  float* keys = layer.past_keys.floats();
  float* values = layer.past_values.floats();
  for (int i = 0; i < width; ++i) {
    keys[static_cast<std::size_t>(i) * shape_.positions + length_] = qkv[width + i];
  }
  std::memcpy(values + static_cast<std::size_t>(length_) * width, qkv + 2 * width,
              sizeof(float) * width);
  float* context = context_.floats();
  std::memset(context, 0, sizeof(float) * stride_);
  std::vector<float> scores(count);
  for (int head = 0; head < shape_.heads; ++head) {
    std::fill(scores.begin(), scores.end(), 0.0f);
    for (int i = head * real; i < (head + 1) * real; ++i) {
      const float* key = keys + static_cast<std::size_t>(i) * shape_.positions;
      for (int j = 0; j < count; ++j) scores[j] += qkv[i] * key[j];
    }
    softmax(scores.data(), count);
    for (int j = 0; j < count; ++j) {
      const float* value = values + static_cast<std::size_t>(j) * width;
      for (int i = head * real; i < (head + 1) * real; ++i) context[i] += scores[j] * value[i];
    }
  }
}

void Decoder::attend_speech(const Layer& layer, float* attended) {
  const int panel = kernels_.gemm.geometry.panel, keys = key_panels_ * panel;
  const int words = words_of(dense_, head_width_), key_words = keys / inputs_per_word(dense_);
  float* scores = scores_.floats();
  std::memset(context_.floats(), 0, sizeof(float) * shape_.heads * head_width_);
  for (int head = 0; head < shape_.heads; ++head) {
    Linear by_key, by_value;
    by_key.precision = by_value.precision = dense_;
    by_key.in = by_value.out = head_width_;
    by_key.out = by_value.in = keys;
    by_key.panels = layer.speech_keys.ints() + static_cast<std::size_t>(head) * keys * words;
    by_value.panels =
        layer.speech_values.ints() + static_cast<std::size_t>(head) * head_width_ * key_words;
    by_key.bias = by_value.bias = zeros_.floats();
    std::memset(scores, 0, sizeof(float) * (keys + kGroup));
    kernels_.gemm.put_rows(mixed_.floats() + head * head_width_, 0, 1, rows(by_key));
    kernels_.gemm.add(rows(by_key), by_key, 1, scores, 0);
    softmax(scores, frames_);
    std::memset(scores + frames_, 0, sizeof(float) * (keys - frames_));
    if (attended) std::memcpy(attended + head * frames_, scores, sizeof(float) * frames_);
    kernels_.gemm.put_rows(scores, 0, 1, rows(by_value));
    kernels_.gemm.add(rows(by_value), by_value, 1, context_.floats() + head * head_width_, 0);
  }
}

void Decoder::step(int token, float* logits, float* attended) {
  if (token < 0 || token >= shape_.tokens) throw std::invalid_argument("there is no such token");
  if (!frames_ || length_ >= shape_.positions) {
    throw std::logic_error("no speech was given, or there is no position left");
  }
  const GemmKernels& gemm = kernels_.gemm;
  const int all = shape_.heads * head_width_;
  float* x = state_.floats();
  embed(token);
  for (const Layer& layer : layers_) {
    normalise(layer.norm1, layer.qkv);
    std::memset(mixed_.floats(), 0, sizeof(float) * layer.qkv.out);
    gemm.add(rows(layer.qkv), layer.qkv, 1, mixed_.floats(), 0);
    attend_past(layer);
    gemm.put_rows(context_.floats(), 0, 1, rows(layer.o));
    gemm.add(rows(layer.o), layer.o, 1, x, 0);

    normalise(layer.norm2, layer.cross_q);
    std::memset(mixed_.floats(), 0, sizeof(float) * all);
    gemm.add(rows(layer.cross_q), layer.cross_q, 1, mixed_.floats(), 0);
    attend_speech(layer, attended);
    if (attended) attended += static_cast<std::size_t>(shape_.heads) * frames_;
    gemm.put_rows(context_.floats(), 0, 1, rows(layer.cross_o));
    gemm.add(rows(layer.cross_o), layer.cross_o, 1, x, 0);

    normalise(layer.norm3, layer.fc1);
    const Rows hidden = {inner_, shape_.inner, hidden_.ints(), hidden_scale_.floats()};
    gemm.gelu_put(rows(layer.fc1), layer.fc1, 1, hidden, staging_.floats());
    gemm.add(hidden, layer.fc2, 1, x, 0);
  }
  normalise(final_, tokens_);
  std::memset(logits_.floats(), 0, sizeof(float) * tokens_.out);
  gemm.add(rows(tokens_), tokens_, 1, logits_.floats(), 0);
  std::memcpy(logits, logits_.floats(), sizeof(float) * shape_.tokens);
  ++length_;
}

}  // namespace asa
