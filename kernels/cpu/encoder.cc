// An encoder as it stands before it runs: precisions, the weights' places, packing.
#include "asa/encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "asa/balance.h"

namespace asa {
namespace {

constexpr std::size_t kHiddenBytes = 1200000;  // of a block's hidden rows: about one L2

// Of the projections beside int8 feed-forward layers.
Precision dense_of(Precision precision, const Kernels& kernels) {
  if (precision != Precision::int8) return precision;
  if (kernels.gemm.bf16) return Precision::bf16;
  return kernels.gemm.words16 ? Precision::int16 : Precision::fp32;
}

}  // namespace

std::vector<Precision> layer_precisions(Precision precision, int layers, const Kernels& kernels) {
  std::vector<Precision> all(layers, precision);
  if (layers > 0) all[0] = dense_of(precision, kernels);
  return all;
}

Encoder::Encoder(const EncoderShape& shape, const std::vector<Precision>& layers, int threads,
                 const Kernels& kernels)
    : PackedWeights("encoder"), shape_(shape), kernels_(kernels), pool_(threads) {
  const auto in = [](int value, int most) { return value >= 1 && value <= most; };
  if (!in(shape.mels, 512) || !in(shape.width, 8192) || !in(shape.heads, 256) ||
      !in(shape.inner, 32768) || !in(shape.layers, 256) || !in(shape.positions, 1 << 20) ||
      shape.width % shape.heads) {
    throw std::invalid_argument("not the shape of a Whisper encoder");
  }
  if (layers.size() != static_cast<std::size_t>(shape.layers)) {
    throw std::invalid_argument("one precision a layer is needed");
  }
  stride_ = round_up(shape.width, kGroup);
  head_width_ = round_up(shape.width / shape.heads, kernels_.gemm.geometry.panel);
  std::size_t tile_bytes = 0;
  for (const Precision precision : layers) {
    layers_.emplace_back();
    Precision dense = dense_of(precision, kernels_);
    if (dense == Precision::int16 && head_width_ > kGroup) dense = Precision::fp32;
    layers_.back().dense = dense;
    layers_.back().inner = precision;
    const bool bytes =
        precision == Precision::int8 && kernels_.attention.bytes && head_width_ <= kGroup;
    const Precision scores = bytes ? Precision::int8 : dense;
    layers_.back().scores = scores;
    query_words_ = std::max(query_words_, kernels_.gemm.geometry.rows * shape.heads *
                                              chunks_of(scores, head_width_) * kChunkWords);
    tile_bytes += sizeof(float) * kernels_.gemm.geometry.rows *
                  words_of(precision, round_up(shape.inner, kGroup));
  }
  tile_bytes /= layers.size();
  most_tiles_ = static_cast<int>(std::clamp<std::size_t>(kHiddenBytes / tile_bytes, 1, 32));
  scratch_.resize(threads);
  count_words();
}

std::size_t Encoder::lay_out(std::int32_t* words) {
  WeightLayout layout(words, kernels_.gemm.geometry.panel);
  const int width = shape_.width, all = shape_.heads * head_width_;
  layout.place(conv1_, layers_[0].dense, kKernel * shape_.mels, width);
  layout.place(conv2_, layers_[0].dense, kKernel * stride_, width);
  positions_ = layout.floats(static_cast<std::size_t>(shape_.positions) * stride_);
  for (Layer& layer : layers_) {
    // Some frames' errors grow a hundredfold in the last layer. The first one's go through all
    // others, so it is here that precision pays.
    const bool exact = &layer == &layers_[0] && layer.inner == Precision::bf16;
    layout.place(layer.q, layer.dense, width, all);
    layout.place(layer.k, layer.dense, width, all);
    layout.place(layer.v, layer.dense, width, all);
    layout.place(layer.o, exact ? Precision::fp32 : layer.dense, all, width);
    layout.place(layer.fc1, layer.inner, width, shape_.inner);
    layout.place(layer.fc2, layer.inner, shape_.inner, width);
    layer.fc1.paired = layer.fc2.paired = true;
    for (float** norm :
         {&layer.norm1_weight, &layer.norm1_bias, &layer.norm2_weight, &layer.norm2_bias}) {
      *norm = layout.floats(stride_);
    }
  }
  final_weight_ = layout.floats(stride_);
  final_bias_ = layout.floats(stride_);
  return layout.used();
}

void Encoder::consider_set() {
  layers_set_ = shape_.layers;
  stem_set_ = final_set_ = true;
}

void Encoder::pack(const Linear& to, const float* weight, const float* bias, int out) const {
  if (to.out == out) {
    kernels_.gemm.pack(weight, bias, to);
    return;
  }
  std::vector<float> padded_weight(static_cast<std::size_t>(to.in) * to.out);
  std::vector<float> padded_bias(to.out);
  std::memcpy(padded_weight.data(), weight, sizeof(float) * to.in * out);
  if (bias) std::memcpy(padded_bias.data(), bias, sizeof(float) * out);
  kernels_.gemm.pack(padded_weight.data(), padded_bias.data(), to);
}

void Encoder::copy(float* to, const float* from) const {
  std::memcpy(to, from, sizeof(float) * shape_.width);
}

void Encoder::set_stem(const StemWeights& w) {
  if (stem_set_) throw std::logic_error("the convolutions are set once");
  make_room();
  const int width = shape_.width;
  // A convolution is a product with rows of three frames laid end to end, so [out][in][3] becomes
  // [out][3][in], the second one with the residual stream's padding.
  const auto reorder = [&](const float* from, int in, int padded) {
    std::vector<float> to(static_cast<std::size_t>(width) * kKernel * padded);
    for (int o = 0; o < width; ++o) {
      for (int i = 0; i < in; ++i) {
        for (int k = 0; k < kKernel; ++k) {
          to[(static_cast<std::size_t>(o) * kKernel + k) * padded + i] =
              from[(static_cast<std::size_t>(o) * in + i) * kKernel + k];
        }
      }
    }
    return to;
  };
  pack(conv1_, reorder(w.conv1_weight, shape_.mels, shape_.mels).data(), w.conv1_bias, width);
  pack(conv2_, reorder(w.conv2_weight, width, stride_).data(), w.conv2_bias, width);
  for (int p = 0; p < shape_.positions; ++p) {
    copy(positions_ + static_cast<std::size_t>(p) * stride_,
         w.positions + static_cast<std::size_t>(p) * width);
  }
  stem_set_ = true;
}

void Encoder::set_layer(int index, const LayerWeights& w) {
  if (index != layers_set_ || index >= shape_.layers)
    throw std::logic_error("layers are set in order, once");
  make_room();
  const int width = shape_.width, heads = shape_.heads;
  const int real = width / heads, all = heads * head_width_;
  // Heads padded to whole panels, in the outputs of q, k and v and in the inputs of o.
  const auto pad_outputs = [&](const float* from, int in, float factor) {
    std::vector<float> to(static_cast<std::size_t>(all) * in);
    for (int row = 0; from && row < width; ++row) {
      const std::size_t at = row / real * head_width_ + row % real;
      for (int i = 0; i < in; ++i) {
        to[at * in + i] = from[static_cast<std::size_t>(row) * in + i] * factor;
      }
    }
    return to;
  };
  std::vector<float> o_weight(static_cast<std::size_t>(width) * all);
  for (int row = 0; row < width; ++row) {
    for (int i = 0; i < width; ++i) {
      o_weight[static_cast<std::size_t>(row) * all + i / real * head_width_ + i % real] =
          w.o_weight[static_cast<std::size_t>(row) * width + i];
    }
  }
  // The softmax is taken to base 2.
  const float factor = 1.44269504089f / std::sqrt(static_cast<float>(real));
  Layer& to = layers_[index];
  pack(to.q, pad_outputs(w.q_weight, width, factor).data(), pad_outputs(w.q_bias, 1, factor).data(),
       all);
  // A vector added to all keys moves all scores of a query alike, which the softmax does not see.
  // Without what the norm's bias gives them keys are smaller, and so are the steps of their bytes.
  std::vector<float> k_bias(width);
  for (int row = 0; to.scores == Precision::int8 && row < width; ++row) {
    const float* weight = w.k_weight + static_cast<std::size_t>(row) * width;
    for (int i = 0; i < width; ++i) k_bias[row] -= weight[i] * w.norm1_bias[i];
  }
  pack(to.k, pad_outputs(w.k_weight, width, 1).data(), pad_outputs(k_bias.data(), 1, 1).data(),
       all);
  pack(to.v, pad_outputs(w.v_weight, width, 1).data(), pad_outputs(w.v_bias, 1, 1).data(), all);
  pack(to.o, o_weight.data(), w.o_bias, width);
  if (to.inner == Precision::int8) {
    const auto values = [](const float* from, int count) {
      return std::vector<float>(from, from + count);
    };
    FeedForward inner{values(w.norm2_weight, width), values(w.norm2_bias, width),
                      values(w.fc1_weight, width * shape_.inner), values(w.fc1_bias, shape_.inner),
                      values(w.fc2_weight, width * shape_.inner)};
    balance(inner);
    pack(to.fc1, inner.fc1_weight.data(), inner.fc1_bias.data(), shape_.inner);
    pack(to.fc2, inner.fc2_weight.data(), w.fc2_bias, width);
  } else {
    pack(to.fc1, w.fc1_weight, w.fc1_bias, shape_.inner);
    pack(to.fc2, w.fc2_weight, w.fc2_bias, width);
  }
  copy(to.norm1_weight, w.norm1_weight);
  copy(to.norm1_bias, w.norm1_bias);
  copy(to.norm2_weight, w.norm2_weight);
  copy(to.norm2_bias, w.norm2_bias);
  ++layers_set_;
}

void Encoder::set_final_norm(const float* weight, const float* bias) {
  if (final_set_) throw std::logic_error("the closing LayerNorm is set once");
  make_room();
  copy(final_weight_, weight);
  copy(final_bias_, bias);
  final_set_ = true;
}

}  // namespace asa
