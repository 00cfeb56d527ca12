// The order of work. Each layer is one round of tasks, one a block of rows: attention, its output
// projection, the feed-forward layers, and the next layer's queries, keys and values. Nothing but
// the residual stream, queries, keys and values outlives a task; keys and values alternate between
// two buffers, because blocks still read the old ones while others write the new.
#include "asa/encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "asa/balance.h"

namespace asa {
namespace {

constexpr int kKernel = 3;                     // width of both convolutions
constexpr std::size_t kHiddenBytes = 1200000;  // of a block's hidden rows: about one L2

constexpr std::size_t kLineWords = 16;  // of a cache line

bool has_bf16() { return std::strcmp(kernels().isa, "avx512_bf16") == 0; }

// Of the projections beside int8 feed-forward layers.
Precision dense_of(Precision precision) {
  if (precision != Precision::int8) return precision;
  return has_bf16() ? Precision::bf16 : Precision::fp32;
}

}  // namespace

std::vector<Precision> layer_precisions(Precision precision, int layers) {
  std::vector<Precision> all(layers, precision);
  if (layers > 0) all[0] = dense_of(precision);
  return all;
}

Encoder::Encoder(const EncoderShape& shape, const std::vector<Precision>& layers, int threads)
    : shape_(shape), kernels_(kernels()), pool_(threads) {
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
    layers_.back().dense = dense_of(precision);
    layers_.back().inner = precision;
    const bool bytes =
        precision == Precision::int8 && kernels_.attention.bytes && head_width_ <= kGroup;
    layers_.back().scores = bytes ? Precision::int8 : dense_of(precision);
    tile_bytes += sizeof(float) * kernels_.gemm.geometry.rows *
                  words_of(precision, round_up(shape.inner, kGroup));
  }
  tile_bytes /= layers.size();
  most_tiles_ = static_cast<int>(std::clamp<std::size_t>(kHiddenBytes / tile_bytes, 1, 32));
  scratch_.resize(threads);
  packed_words_ = lay_out(nullptr);
}

// Points every weight into `words`, if not null; returns how many there must be.
std::size_t Encoder::lay_out(std::int32_t* words) {
  std::size_t used = 0;
  const auto take = [&](std::size_t count) {
    std::int32_t* at = words ? words + used : nullptr;
    used += (count + kLineWords - 1) / kLineWords * kLineWords;
    return at;
  };
  const auto floats = [&](std::size_t count) { return reinterpret_cast<float*>(take(count)); };
  const auto linear = [&](Linear& to, Precision precision, int in, int out) {
    to = {.precision = precision, .in = in, .out = round_up(out, kernels_.gemm.geometry.panel)};
    to.panels = take(static_cast<std::size_t>(words_of(precision, in)) * to.out);
    to.bias = floats(to.out);
    if (precision != Precision::int8) return;
    const std::size_t groups = chunks_of(precision, in);
    to.scale = floats(groups * to.out);
    to.sum = floats(groups * to.out);
  };
  const int width = shape_.width, all = shape_.heads * head_width_;
  linear(conv1_, layers_[0].dense, kKernel * shape_.mels, width);
  linear(conv2_, layers_[0].dense, kKernel * stride_, width);
  positions_ = floats(static_cast<std::size_t>(shape_.positions) * stride_);
  for (Layer& layer : layers_) {
    // Some frames' errors grow a hundredfold in the last layer. The first one's go through all
    // others, so it is here that precision pays.
    const bool exact = &layer == &layers_[0] && layer.inner != Precision::int8;
    linear(layer.q, layer.dense, width, all);
    linear(layer.k, layer.dense, width, all);
    linear(layer.v, layer.dense, width, all);
    linear(layer.o, exact ? Precision::fp32 : layer.dense, all, width);
    linear(layer.fc1, layer.inner, width, shape_.inner);
    linear(layer.fc2, layer.inner, shape_.inner, width);
    for (float** norm :
         {&layer.norm1_weight, &layer.norm1_bias, &layer.norm2_weight, &layer.norm2_bias}) {
      *norm = floats(stride_);
    }
  }
  final_weight_ = floats(stride_);
  final_bias_ = floats(stride_);
  return used;
}

void Encoder::make_room() {
  if (packed_) return;
  weights_ = Buffer(packed_words_);
  packed_ = weights_.ints();
  lay_out(weights_.ints());
}

Encoder::Packed Encoder::packed() const {
  if (!all_set()) throw std::logic_error("the encoder's weights are not all set");
  return {packed_, packed_words_};
}

void Encoder::adopt(const Packed& packed) {
  if (packed_) throw std::logic_error("the encoder's weights have been set");
  if (packed.count != packed_words_ ||
      reinterpret_cast<std::uintptr_t>(packed.words) % (sizeof(float) * kLineWords)) {
    throw std::invalid_argument("not the packed weights of this encoder");
  }
  packed_ = packed.words;
  lay_out(const_cast<std::int32_t*>(packed.words));  // only set_* write there
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

void Encoder::encode(const std::vector<Sequence>& batch, const std::vector<float>& layer_weights) {
  std::lock_guard lock(mutex_);
  if (!all_set()) throw std::logic_error("the encoder's weights are not all set");
  if (layer_weights.size() != static_cast<std::size_t>(shape_.layers) + 1) {
    throw std::invalid_argument("one weight a layer is needed, and one for the embedded input");
  }
  for (const Sequence& sequence : batch) {
    if (sequence.mel_frames < 1 || sequence.frames() > shape_.positions) {
      throw std::invalid_argument("mel has " + std::to_string(sequence.mel_frames) +
                                  " frames; this encoder takes 1 to " +
                                  std::to_string(2 * shape_.positions));
    }
  }
  if (batch.empty()) return;
  plan(batch);
  const ThreadPool::Session awake(pool_, static_cast<int>(blocks_.size()));
  for (const Sequence& sequence : batch) {
    std::memset(sequence.out, 0,
                sizeof(float) * static_cast<std::size_t>(sequence.frames()) * shape_.width);
  }
  for (int round = 0; round <= shape_.layers; ++round) {
    pool_.run(static_cast<int>(blocks_.size()), [&](int task, int thread) {
      const Block& block = blocks_[task];
      const Sequence& sequence = batch[block.sequence];
      Scratch& scratch = scratch_[thread];
      if (scratch.laps) scratch.laps->begin();
      if (round == 0) {
        run_stem(sequence, block, scratch);
      } else {
        run_layer(round - 1, sequence, block, scratch);
      }
      mix(round, sequence, block, layer_weights[round], scratch);
      if (round < shape_.layers) project(round, sequence, block, scratch);
      if (scratch.laps) scratch.laps->finish(round - 1);
    });
    for (std::size_t s = 0; s < batch.size(); ++s) {
      if (!batch[s].moments) continue;
      if (scratch_[0].laps) scratch_[0].laps->begin();
      sum_moments(round, batch[s], first_tile_[s]);
      const double elements = double(batch[s].frames()) * shape_.width;
      mark(scratch_[0], Step::moments, round - 1, 3 * elements, elements);
      if (scratch_[0].laps) scratch_[0].laps->finish(round - 1);
    }
  }
}

void Encoder::record(bool on) {
  std::lock_guard lock(mutex_);
  for (std::size_t thread = 0; thread < scratch_.size(); ++thread) {
    scratch_[thread].laps = on ? std::make_unique<Laps>(static_cast<int>(thread)) : nullptr;
  }
}

std::vector<Lap> Encoder::take_laps() {
  std::lock_guard lock(mutex_);
  std::vector<Lap> all;
  for (Scratch& scratch : scratch_) {
    if (scratch.laps) scratch.laps->move_to(all);
  }
  return all;
}

int Encoder::valid_rows(const Sequence& sequence, const Block& block, int tile_rows) {
  return std::min(block.tiles * tile_rows, sequence.frames() - block.first_tile * tile_rows);
}

void Encoder::mark(Scratch& scratch, Step step, int layer, const Linear& linear, int rows, int in,
                   int out) const {
  if (!scratch.laps) return;
  const double products = double(rows) * in * out;
  const double words = double(words_of(linear.precision, in)) * (out + rows) + double(rows) * out;
  scratch.laps->mark(step, layer, linear.precision, 2 * products, sizeof(float) * words);
}

void Encoder::mark(Scratch& scratch, Step step, int layer, double operations, double floats) const {
  if (!scratch.laps) return;
  scratch.laps->mark(step, layer, Precision::fp32, operations, sizeof(float) * floats);
}

void Encoder::plan(const std::vector<Sequence>& batch) {
  const int rows = kernels_.gemm.geometry.rows, panel = kernels_.gemm.geometry.panel;
  first_tile_.clear();
  first_panel_.clear();
  int tiles = 0, panels = 0;
  for (const Sequence& sequence : batch) {
    first_tile_.push_back(tiles);
    first_panel_.push_back(panels);
    const int own = (sequence.frames() + rows - 1) / rows;
    tiles += own;
    panels += (own * rows + panel - 1) / panel;
  }
  first_panel_.push_back(panels);
  // Blocks of equal size, as many as keep all threads busy to the end.
  const int threads = pool_.threads();
  const int waves = (tiles + threads * most_tiles_ - 1) / (threads * most_tiles_);
  const int size = std::max(1, (tiles + threads * waves - 1) / (threads * waves));
  blocks_.clear();
  int largest = 0;
  for (int s = 0; s < static_cast<int>(batch.size()); ++s) {
    const int own = (batch[s].frames() + rows - 1) / rows;
    for (int t = 0; t < own; t += size) blocks_.push_back({s, t, std::min(size, own - t)});
    largest = std::max(largest, std::min(size, own));
  }

  const std::size_t all = static_cast<std::size_t>(shape_.heads) * head_width_;
  residual_.reserve(static_cast<std::size_t>(tiles) * rows * stride_);
  const std::size_t block_rows = static_cast<std::size_t>(largest) * rows;
  const std::size_t conv_rows = round_up(static_cast<int>(2 * block_rows) + 1, rows);
  // A row's words before a linear layer.
  const auto words = [](const Linear& next) {
    return static_cast<std::size_t>(chunks_of(next.precision, next.in)) * kChunkWords;
  };
  std::size_t input = std::max(conv_rows * words(conv1_), block_rows * words(conv2_)), hidden = 0;
  for (int index = 0; index < shape_.layers; ++index) {
    const Layer& layer = layers_[index];
    const std::size_t pairs = panels * panel * all / inputs_per_word(layer.dense);
    queries_.reserve(static_cast<std::size_t>(tiles) * rows * shape_.heads *
                     chunks_of(layer.scores, head_width_) * kChunkWords);
    keys_[index % 2].reserve(pairs);
    values_[index % 2].reserve(pairs);
    if (layer.scores == Precision::int8) {
      query_scale_.reserve(static_cast<std::size_t>(tiles) * shape_.heads * 2 * rows);
      key_scale_[index % 2].reserve(static_cast<std::size_t>(panels) * shape_.heads * 2 * panel);
    }
    for (const Linear* next : {&layer.q, &layer.o, &layer.fc1}) {
      input = std::max(input, block_rows * words(*next));
    }
    hidden = std::max(hidden, block_rows * words(layer.fc2));
  }
  for (Scratch& scratch : scratch_) {
    scratch.mel.reserve((conv_rows + 2) * shape_.mels + 2 * kGroup);
    scratch.conv.reserve(conv_rows * stride_);
    scratch.input.reserve(input);
    scratch.input_scale.reserve(2 * block_rows * chunks_of(Precision::int8, shape_.width));
    scratch.context.reserve(block_rows * all + kGroup);
    scratch.hidden.reserve(hidden);
    scratch.hidden_scale.reserve(2 * block_rows * chunks_of(Precision::int8, shape_.inner));
    scratch.staging.reserve(std::max(block_rows * kGroup, static_cast<std::size_t>(stride_)));
  }
}

Attention Encoder::attention(int sequence, int layer, int frames) const {
  const int rows = kernels_.gemm.geometry.rows, panel = kernels_.gemm.geometry.panel;
  const Precision dense = layers_[layer].dense, scores = layers_[layer].scores;
  const int per_word = inputs_per_word(dense), parity = layer % 2;
  const int panels = first_panel_[sequence + 1] - first_panel_[sequence];
  const std::size_t heads = shape_.heads, tile = first_tile_[sequence];
  const std::size_t keys = first_panel_[sequence] * panel * heads;
  const bool bytes = scores == Precision::int8;
  return {.precision = dense,
          .heads = shape_.heads,
          .head_width = head_width_,
          .length = frames,
          .queries =
              queries_.ints() + tile * rows * heads * chunks_of(scores, head_width_) * kChunkWords,
          .keys = keys_[parity].ints() + keys * head_width_ / inputs_per_word(scores),
          .values = values_[parity].ints() + keys * head_width_ / per_word,
          .key_panels = panels,
          .key_words = panels * panel / per_word,
          .scores = scores,
          .query_scale = bytes ? query_scale_.floats() + tile * heads * 2 * rows : nullptr,
          .key_scale = bytes ? key_scale_[parity].floats() + keys * 2 : nullptr};
}

Rows Encoder::rows(Scratch& scratch, const Linear& next) const {
  return {next.precision, next.in, scratch.input.ints(), scratch.input_scale.floats()};
}

void Encoder::run_stem(const Sequence& sequence, const Block& block, Scratch& scratch) {
  const int tile_rows = kernels_.gemm.geometry.rows, mels = shape_.mels;
  const int first = block.first_tile * tile_rows, count = block.tiles * tile_rows;
  const int valid = valid_rows(sequence, block, tile_rows);
  // Output row r reads first-convolution rows 2r - 1 .. 2r + 1, each of which reads three frames.
  const int conv_first = 2 * first - 1, conv_count = 2 * valid + 1;
  float* mel = scratch.mel.floats();
  for (int row = 0; row < conv_count + 2; ++row) {
    const int frame = conv_first - 1 + row;
    const bool inside = frame >= 0 && frame < sequence.mel_frames;
    for (int m = 0; m < mels; ++m) {
      mel[row * mels + m] =
          inside ? sequence.mel[static_cast<std::size_t>(m) * sequence.mel_frames + frame] : 0.0f;
    }
  }
  float* conv = scratch.conv.floats();
  Rows input = rows(scratch, conv1_);
  kernels_.gemm.put_rows(mel, mels, conv_count, input);
  mark(scratch, Step::pack, -1, 0, 2.0 * conv_count * mels);
  kernels_.gemm.gelu_store(input, conv1_, conv_count, conv, stride_, nullptr, 0);
  for (int row = 0; row < conv_count; ++row) {
    const int frame = conv_first + row;
    if (frame < 0 || frame >= sequence.mel_frames) {
      std::memset(conv + static_cast<std::size_t>(row) * stride_, 0, sizeof(float) * stride_);
    }
  }
  // Rows that the next block computes as well count there.
  mark(scratch, Step::conv1, -1, conv1_, std::min(2 * valid, sequence.mel_frames - 2 * first),
       kKernel * mels, shape_.width);
  input = rows(scratch, conv2_);
  kernels_.gemm.put_rows(conv, 2 * stride_, valid, input);
  mark(scratch, Step::pack, -1, 0, 4.0 * valid * shape_.width);
  float* x = residual_.floats() +
             static_cast<std::size_t>(first_tile_[block.sequence] + block.first_tile) * tile_rows *
                 stride_;
  // Rows past the sequence's end have no position; they are never read by others, only kept finite.
  kernels_.gemm.gelu_store(input, conv2_, valid, x, stride_,
                           positions_ + static_cast<std::size_t>(first) * stride_, stride_);
  mark(scratch, Step::conv2, -1, conv2_, valid, kKernel * shape_.width, shape_.width);
  std::memset(x + static_cast<std::size_t>(valid) * stride_, 0,
              sizeof(float) * (count - valid) * stride_);
}

void Encoder::run_layer(int index, const Sequence& sequence, const Block& block, Scratch& scratch) {
  const Layer& layer = layers_[index];
  const int tile_rows = kernels_.gemm.geometry.rows, count = block.tiles * tile_rows;
  float* x = residual_.floats() +
             static_cast<std::size_t>(first_tile_[block.sequence] + block.first_tile) * tile_rows *
                 stride_;
  const Attention view = attention(block.sequence, index, sequence.frames());
  const int all = shape_.heads * head_width_;
  float* context = scratch.context.floats();
  for (int head = 0; head < shape_.heads; ++head) {
    for (int t = 0; t < block.tiles; ++t) {
      kernels_.attention.attend(
          view, block.first_tile + t, head,
          context + static_cast<std::size_t>(t) * tile_rows * all + head * head_width_, all);
    }
  }
  const int valid = valid_rows(sequence, block, tile_rows), width = shape_.width;
  if (scratch.laps) {
    const double length = sequence.frames(), words = double(width) / inputs_per_word(layer.dense);
    scratch.laps->mark(Step::attention, index, layer.dense, 4.0 * valid * length * width,
                       sizeof(float) * (words * (valid + 2 * length) + double(valid) * width));
  }
  Rows input = rows(scratch, layer.o);
  kernels_.gemm.put_rows(context, all, count, input);
  mark(scratch, Step::pack, index, 0, 2.0 * valid * width);
  kernels_.gemm.add(input, layer.o, valid, x, stride_);
  mark(scratch, Step::projection, index, layer.o, valid, width, width);

  input = rows(scratch, layer.fc1);
  kernels_.layer_norm.put(x, stride_, count, layer.norm2_weight, layer.norm2_bias, input,
                          scratch.staging.floats());
  mark(scratch, Step::norm, index, 8.0 * valid * width, 2.0 * valid * width);
  const Rows hidden = {layer.fc2.precision, layer.fc2.in, scratch.hidden.ints(),
                       scratch.hidden_scale.floats()};
  kernels_.gemm.gelu_put(input, layer.fc1, valid, hidden, scratch.staging.floats());
  mark(scratch, Step::expand, index, layer.fc1, valid, width, shape_.inner);
  kernels_.gemm.add(hidden, layer.fc2, valid, x, stride_);
  mark(scratch, Step::contract, index, layer.fc2, valid, shape_.inner, width);
}

void Encoder::project(int index, const Sequence& sequence, const Block& block, Scratch& scratch) {
  const Layer& layer = layers_[index];
  const int tile_rows = kernels_.gemm.geometry.rows, count = block.tiles * tile_rows;
  const float* x = residual_.floats() +
                   static_cast<std::size_t>(first_tile_[block.sequence] + block.first_tile) *
                       tile_rows * stride_;
  Attention view = attention(block.sequence, index, sequence.frames());
  view.scratch = scratch.staging.floats();
  const Rows input = rows(scratch, layer.q);
  kernels_.layer_norm.put(x, stride_, count, layer.norm1_weight, layer.norm1_bias, input,
                          scratch.staging.floats());
  const int valid = valid_rows(sequence, block, tile_rows), width = shape_.width;
  mark(scratch, Step::norm, index, 8.0 * valid * width, 2.0 * valid * width);
  kernels_.gemm.queries(input, layer.q, valid, view, block.first_tile);
  mark(scratch, Step::queries, index, layer.q, valid, width, width);
  kernels_.gemm.keys(input, layer.k, valid, view, block.first_tile);
  mark(scratch, Step::keys, index, layer.k, valid, width, width);
  kernels_.gemm.values(input, layer.v, valid, view, block.first_tile);
  mark(scratch, Step::values, index, layer.v, valid, width, width);
}

void Encoder::mix(int layer, const Sequence& sequence, const Block& block, float weight,
                  Scratch& scratch) {
  if (weight == 0.0f) return;
  const int tile_rows = kernels_.gemm.geometry.rows;
  const int first = block.first_tile * tile_rows;
  const int count = std::min(block.tiles * tile_rows, sequence.frames() - first);
  const float* x =
      residual_.floats() +
      (static_cast<std::size_t>(first_tile_[block.sequence]) * tile_rows + first) * stride_;
  float* out = sequence.out + static_cast<std::size_t>(first) * shape_.width;
  if (layer == shape_.layers) {
    kernels_.layer_norm.mix(x, stride_, count, shape_.width, final_weight_, final_bias_, weight,
                            out);
  } else {
    kernels_.layer_norm.add_scaled(x, stride_, count, shape_.width, weight, out);
  }
  const double elements = double(count) * shape_.width;
  mark(scratch, Step::mix, layer - 1, (layer == shape_.layers ? 10 : 2) * elements, 3 * elements);
}

// On one thread, in order of frames: it is little work, and the sums must not depend on blocks.
void Encoder::sum_moments(int layer, const Sequence& sequence, int first_tile) {
  const std::size_t first_row = static_cast<std::size_t>(first_tile) * kernels_.gemm.geometry.rows;
  const float* x = residual_.floats() + first_row * stride_;
  const int width = shape_.width, count = sequence.frames();
  int stride = stride_;
  if (layer == shape_.layers) {
    const std::size_t size = static_cast<std::size_t>(count) * width;
    last_.reserve(size);
    std::memset(last_.floats(), 0, sizeof(float) * size);
    kernels_.layer_norm.mix(x, stride, count, width, final_weight_, final_bias_, 1.0f,
                            last_.floats());
    x = last_.floats();
    stride = width;
  }
  float* sums = sequence.moments + static_cast<std::size_t>(layer) * width;
  float* squares = sums + static_cast<std::size_t>(shape_.layers + 1) * width;
  kernels_.pool.moments(x, stride, count, width, sums, squares);
}

}  // namespace asa
