// Weights and speech of the decoder. Keys and values of the speech are packed once, as panels that
// a plain product streams through.
#include "asa/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace asa {
namespace {

constexpr int kFrames = 1536;  // the least room: a window of 30 s

std::size_t packed_words(Precision precision, int in, int rows) {
  return static_cast<std::size_t>(chunks_of(precision, in)) * kChunkWords * rows;
}

}  // namespace

Decoder::Decoder(const DecoderShape& shape, Precision precision, const Kernels& kernels)
    : shape_(shape), kernels_(kernels) {
  const auto in = [](int value, int most) { return value >= 1 && value <= most; };
  if (!in(shape.width, 8192) || !in(shape.heads, 256) || !in(shape.inner, 32768) ||
      !in(shape.layers, 256) || !in(shape.tokens, 1 << 20) || !in(shape.positions, 1 << 16) ||
      shape.width % shape.heads || (precision != Precision::fp32 && precision != Precision::int8)) {
    throw std::invalid_argument("not the shape or precision of a Whisper decoder");
  }
  inner_ = precision;
  dense_ = precision == Precision::int8 && kernels_.gemm.bf16 ? Precision::bf16 : Precision::fp32;
  const int panel = kernels_.gemm.geometry.panel;
  stride_ = round_up(shape.width, kGroup);
  head_width_ = round_up(shape.width / shape.heads, panel);
  layers_.resize(shape.layers);
  make_room(1);
}

// For `count` rows of a pass, and the keys of the speech.
void Decoder::make_room(int count) {
  const int panel = kernels_.gemm.geometry.panel, tile = kernels_.gemm.geometry.rows;
  const int keys = round_up(std::max(frames_, 1), kGroup);
  if (count <= rows_ && keys <= row_keys_) return;
  rows_ = std::max(rows_, count);
  row_keys_ = std::max(row_keys_, keys);
  const std::size_t rows = round_up(rows_, tile), all = this->all();
  const int widest = std::max({shape_.width, this->all(), shape_.inner});
  state_.reserve(rows * stride_);
  mixed_.reserve(3 * rows * all + kGroup);
  context_.reserve(rows * all + kGroup);
  scores_.reserve(rows * row_keys_);
  zeros_.reserve(std::max(row_keys_, head_width_));
  spread_.reserve(2 * rows);
  staging_.reserve(std::max<std::size_t>(stride_, rows * kGroup));
  const int padded = static_cast<int>(rows);
  input_.reserve(packed_words(Precision::fp32, std::max(widest, row_keys_), padded));
  hidden_.reserve(packed_words(Precision::fp32, shape_.inner, padded));
  for (Buffer* buffer : {&input_scale_, &hidden_scale_}) {
    buffer->reserve(2 * rows * chunks_of(Precision::int8, widest));
  }
  const std::size_t text = round_up(padded, panel) * all;
  text_queries_.reserve(rows * shape_.heads * chunks_of(Precision::fp32, head_width_) *
                        kChunkWords);
  text_keys_.reserve(text);
  text_values_.reserve(text);
}

// Room for a matrix, all zeros.
void Decoder::make(PackedLinear& to, Precision precision, int in, int out) const {
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
}

void Decoder::fill(const Linear& to, const float* weight, const float* bias, int out) const {
  std::vector<float> padded_weight, padded_bias(to.out);
  if (to.out != out) {
    padded_weight.resize(static_cast<std::size_t>(to.in) * to.out);
    std::memcpy(padded_weight.data(), weight, sizeof(float) * to.in * out);
    weight = padded_weight.data();
  }
  if (bias) std::memcpy(padded_bias.data(), bias, sizeof(float) * out);
  kernels_.gemm.pack(weight, padded_bias.data(), to);
}

void Decoder::pack(PackedLinear& to, Precision precision, const float* weight, const float* bias,
                   int in, int out) const {
  make(to, precision, in, out);
  fill(to, weight, bias, out);
}

Decoder::Norm Decoder::norm(const float* weight, const float* bias) const {
  Norm to{Buffer(stride_), Buffer(stride_)};
  std::memcpy(to.weight.floats(), weight, sizeof(float) * shape_.width);
  std::memcpy(to.bias.floats(), bias, sizeof(float) * shape_.width);
  return to;
}

void Decoder::set_tokens(int first, const float* embeddings, int count) {
  const int left = shape_.tokens - tokens_set_;
  if (first != tokens_set_ || count < 1 || count > left || (count < left && count % kTokens)) {
    throw std::logic_error("tokens are set in order, once, in multiples of 1024");
  }
  if (first == 0) make(tokens_, inner_, shape_.width, shape_.tokens);
  const int panel = kernels_.gemm.geometry.panel;
  const int groups = chunks_of(inner_, shape_.width), rows = round_up(count, panel);
  Buffer scale(static_cast<std::size_t>(groups) * rows);
  Buffer sum(static_cast<std::size_t>(groups) * rows);
  Linear part = tokens_;
  part.out = rows;
  part.panels += static_cast<std::size_t>(words_of(inner_, shape_.width)) * first;
  part.bias += first;
  part.scale = scale.floats();
  part.sum = sum.floats();
  fill(part, embeddings, nullptr, count);
  for (int group = 0; inner_ == Precision::int8 && group < groups; ++group) {
    const std::size_t from = static_cast<std::size_t>(group) * rows;
    const std::size_t to = static_cast<std::size_t>(group) * tokens_.out + first;
    std::memcpy(tokens_.scale + to, part.scale + from, sizeof(float) * rows);
    std::memcpy(tokens_.sum + to, part.sum + from, sizeof(float) * rows);
  }
  tokens_set_ += count;
}

void Decoder::set_positions(const float* positions) {
  const std::size_t count = static_cast<std::size_t>(shape_.positions) * shape_.width;
  positions_ = Buffer(count);
  std::memcpy(positions_.floats(), positions, sizeof(float) * count);
  positions_set_ = true;
}

void Decoder::set_layer(int index, const DecoderLayerWeights& w) {
  if (index != layers_set_ || index >= shape_.layers)
    throw std::logic_error("layers are set in order, once");
  const int width = shape_.width, real = width / shape_.heads, all = this->all();
  // The softmax is taken to base 2.
  const float factor = 1.44269504089f / std::sqrt(static_cast<float>(real));
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
  const auto pad_inputs = [&](const float* from) {
    std::vector<float> to(static_cast<std::size_t>(width) * all);
    for (int row = 0; row < width; ++row) {
      for (int i = 0; i < width; ++i) {
        to[static_cast<std::size_t>(row) * all + padded_row(i)] =
            from[static_cast<std::size_t>(row) * width + i];
      }
    }
    return to;
  };
  const auto pack_heads = [&](PackedLinear& to, Precision precision, const float* weight,
                              const float* bias, float scale) {
    pack(to, precision, pad_outputs(weight, width, scale).data(),
         pad_outputs(bias, 1, scale).data(), width, all);
  };
  const std::size_t square = static_cast<std::size_t>(width) * width;

  Layer& to = layers_[index];
  to.norm1 = norm(w.norm1_weight, w.norm1_bias);
  to.norm2 = norm(w.norm2_weight, w.norm2_bias);
  to.norm3 = norm(w.norm3_weight, w.norm3_bias);
  pack_heads(to.q, inner_, w.qkv_weight, w.qkv_bias, factor);
  pack_heads(to.k, inner_, w.qkv_weight + square, w.qkv_bias + width, 1);
  pack_heads(to.v, inner_, w.qkv_weight + 2 * square, w.qkv_bias + 2 * width, 1);
  pack(to.o, inner_, pad_inputs(w.o_weight).data(), w.o_bias, all, width);
  pack_heads(to.cross_q, inner_, w.cross_q_weight, w.cross_q_bias, factor);
  pack_heads(to.cross_k, dense_, w.cross_kv_weight, w.cross_kv_bias, 1);
  pack_heads(to.cross_v, dense_, w.cross_kv_weight + square, w.cross_kv_bias + width, 1);
  pack(to.cross_o, inner_, pad_inputs(w.cross_o_weight).data(), w.cross_o_bias, all, width);
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
  if (tokens_set_ != shape_.tokens || !positions_set_ || !final_set_ ||
      layers_set_ != shape_.layers) {
    throw std::logic_error("the decoder's weights are not all set");
  }
  if (count < 1 || count > 1 << 16) throw std::invalid_argument("frames must be 1 to 65536");
  const int tile = kernels_.gemm.geometry.rows, panel = kernels_.gemm.geometry.panel;
  const int padded = round_up(count, tile), width = shape_.width;
  if (padded > room_) {
    room_ = round_up(std::max(kFrames, 2 * padded), panel);
    frames_ = 0;
    speech_ = Buffer(static_cast<std::size_t>(room_) * stride_);
    const std::size_t words = static_cast<std::size_t>(all()) * room_ / inputs_per_word(dense_);
    for (Layer& layer : layers_) {
      layer.speech_keys = Buffer(words);
      layer.speech_values = Buffer(words);
    }
  }
  const auto row = [&](int frame) {
    return speech_.floats() + static_cast<std::size_t>(frame) * stride_;
  };
  const std::size_t bytes = sizeof(float) * width;
  int same = 0;
  const int known = std::min(count, frames_);
  while (same < known && !std::memcmp(row(same), frames + std::size_t(same) * width, bytes)) ++same;
  for (int frame = same; frame < padded; ++frame) {
    if (frame < count) {
      std::memcpy(row(frame), frames + static_cast<std::size_t>(frame) * width, bytes);
    } else {
      std::memset(row(frame), 0, bytes);
    }
  }
  frames_ = count;
  length_ = 0;
  make_room(1);
  // A tile is computed whole, so one that only began alike is computed again.
  const int first = same / tile * tile, fresh = padded - first;
  if (!fresh) return;
  speech_input_.reserve(packed_words(dense_, width, fresh));
  const Rows input = {dense_, width, speech_input_.ints(), nullptr};
  kernels_.gemm.put_rows(row(first), stride_, fresh, input);
  for (Layer& layer : layers_) {
    const Attention view = {.precision = dense_,
                            .heads = shape_.heads,
                            .head_width = head_width_,
                            .length = count,
                            .queries = nullptr,
                            .keys = layer.speech_keys.ints(),
                            .values = layer.speech_values.ints(),
                            .key_panels = room_ / panel,
                            .key_words = room_ / inputs_per_word(dense_),
                            .query_words = 0};
    kernels_.gemm.keys(input, layer.cross_k, fresh, view, first / tile);
    kernels_.gemm.values(input, layer.cross_v, fresh, view, first / tile);
  }
}

}  // namespace asa
