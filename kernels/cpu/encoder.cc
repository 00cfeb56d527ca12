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

Buffer copy_of(const float* from, std::size_t count, std::size_t room) {
  Buffer buffer(room);
  std::memcpy(buffer.floats(), from, count * sizeof(float));
  return buffer;
}

}  // namespace

Encoder::Encoder(const EncoderShape& shape, Precision precision, int threads)
    : shape_(shape), kernels_(kernels()), pool_(threads) {
  const auto in = [](int value, int most) { return value >= 1 && value <= most; };
  if (!in(shape.mels, 512) || !in(shape.width, 8192) || !in(shape.heads, 256) ||
      !in(shape.inner, 32768) || !in(shape.layers, 256) || !in(shape.positions, 1 << 20) ||
      shape.width % shape.heads) {
    throw std::invalid_argument("not the shape of a Whisper encoder");
  }
  const bool has_bf16 = std::strcmp(kernels_.isa, "avx512_bf16") == 0;
  inner_ = precision;
  dense_ = precision != Precision::int8 ? precision : has_bf16 ? Precision::bf16 : Precision::fp32;
  stride_ = round_up(shape.width, kGroup);
  head_width_ = round_up(shape.width / shape.heads, kernels_.gemm.geometry.panel);
  const std::size_t tile_bytes =
      sizeof(float) * kernels_.gemm.geometry.rows * words_of(inner_, round_up(shape.inner, kGroup));
  most_tiles_ = static_cast<int>(std::clamp<std::size_t>(kHiddenBytes / tile_bytes, 1, 32));
  layers_.resize(shape.layers);
  scratch_.resize(threads);
}

void Encoder::pack(PackedLinear& to, Precision precision, const float* weight, const float* bias,
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
  std::vector<float> padded_weight(static_cast<std::size_t>(in) * to.out);
  std::vector<float> padded_bias(to.out);
  std::memcpy(padded_weight.data(), weight, sizeof(float) * in * out);
  if (bias) std::memcpy(padded_bias.data(), bias, sizeof(float) * out);
  kernels_.gemm.pack(padded_weight.data(), padded_bias.data(), to);
}

void Encoder::set_stem(const StemWeights& w) {
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
  pack(conv1_, dense_, reorder(w.conv1_weight, shape_.mels, shape_.mels).data(), w.conv1_bias,
       kKernel * shape_.mels, width);
  pack(conv2_, dense_, reorder(w.conv2_weight, width, stride_).data(), w.conv2_bias,
       kKernel * stride_, width);
  positions_ = Buffer(static_cast<std::size_t>(shape_.positions) * stride_);
  for (int p = 0; p < shape_.positions; ++p) {
    std::memcpy(positions_.floats() + static_cast<std::size_t>(p) * stride_,
                w.positions + static_cast<std::size_t>(p) * width, sizeof(float) * width);
  }
  stem_set_ = true;
}

void Encoder::set_layer(int index, const LayerWeights& w) {
  if (index != layers_set_ || index >= shape_.layers)
    throw std::logic_error("layers are set in order, once");
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
  pack(to.q, dense_, pad_outputs(w.q_weight, width, factor).data(),
       pad_outputs(w.q_bias, 1, factor).data(), width, all);
  pack(to.k, dense_, pad_outputs(w.k_weight, width, 1).data(), nullptr, width, all);
  pack(to.v, dense_, pad_outputs(w.v_weight, width, 1).data(), pad_outputs(w.v_bias, 1, 1).data(),
       width, all);
  // Some frames' errors grow a hundredfold in the last layer. The first one's go through all
  // others, so it is here that precision pays.
  const bool first = index == 0;
  pack(to.o, first ? Precision::fp32 : dense_, o_weight.data(), w.o_bias, all, width);
  const auto copy = [](const float* from, int count) {
    return std::vector<float>(from, from + count);
  };
  FeedForward inner{copy(w.norm2_weight, width), copy(w.norm2_bias, width),
                    copy(w.fc1_weight, width * shape_.inner), copy(w.fc1_bias, shape_.inner),
                    copy(w.fc2_weight, width * shape_.inner)};
  if (inner_ == Precision::int8) balance(inner);
  const Precision feed_forward = first ? dense_ : inner_;
  pack(to.fc1, feed_forward, inner.fc1_weight.data(), inner.fc1_bias.data(), width, shape_.inner);
  pack(to.fc2, feed_forward, inner.fc2_weight.data(), w.fc2_bias, shape_.inner, width);
  to.norm1_weight = copy_of(w.norm1_weight, width, stride_);
  to.norm1_bias = copy_of(w.norm1_bias, width, stride_);
  to.norm2_weight = copy_of(inner.norm_weight.data(), width, stride_);
  to.norm2_bias = copy_of(inner.norm_bias.data(), width, stride_);
  ++layers_set_;
}

void Encoder::set_final_norm(const float* weight, const float* bias) {
  final_weight_ = copy_of(weight, shape_.width, stride_);
  final_bias_ = copy_of(bias, shape_.width, stride_);
  final_set_ = true;
}

void Encoder::encode(const std::vector<Sequence>& batch, const std::vector<float>& layer_weights) {
  std::lock_guard lock(mutex_);
  if (!stem_set_ || !final_set_ || layers_set_ != shape_.layers) {
    throw std::logic_error("the encoder's weights are not all set");
  }
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
  for (int s = 0; s < static_cast<int>(batch.size()); ++s) {
    const int own = (batch[s].frames() + rows - 1) / rows;
    for (int t = 0; t < own; t += size) blocks_.push_back({s, t, std::min(size, own - t)});
  }

  const std::size_t all = static_cast<std::size_t>(shape_.heads) * head_width_;
  residual_.reserve(static_cast<std::size_t>(tiles) * rows * stride_);
  queries_.reserve(static_cast<std::size_t>(tiles) * rows * shape_.heads *
                   chunks_of(dense_, head_width_) * kChunkWords);
  for (int parity = 0; parity < 2; ++parity) {
    keys_[parity].reserve(panels * panel * all / inputs_per_word(dense_));
    values_[parity].reserve(panels * panel * all / inputs_per_word(dense_));
  }
  const std::size_t block_rows = static_cast<std::size_t>(most_tiles_) * rows;
  const std::size_t conv_rows = round_up(static_cast<int>(2 * block_rows) + 1, rows);
  const auto words = [](Precision p, int in) {
    return static_cast<std::size_t>(chunks_of(p, in)) * kChunkWords;
  };
  for (Scratch& scratch : scratch_) {
    scratch.mel.reserve((conv_rows + 2) * shape_.mels + 2 * kGroup);
    scratch.conv.reserve(conv_rows * stride_);
    scratch.input.reserve(std::max({conv_rows * words(dense_, kKernel * shape_.mels),
                                    block_rows * words(dense_, kKernel * stride_),
                                    block_rows * words(Precision::fp32, static_cast<int>(all)),
                                    block_rows * words(dense_, shape_.width)}));
    scratch.input_scale.reserve(2 * block_rows * chunks_of(inner_, shape_.width));
    scratch.context.reserve(block_rows * all + kGroup);
    scratch.hidden.reserve(block_rows * words(dense_, shape_.inner));
    scratch.hidden_scale.reserve(2 * block_rows * chunks_of(inner_, shape_.inner));
    scratch.staging.reserve(std::max(block_rows * kGroup, static_cast<std::size_t>(stride_)));
  }
}

Attention Encoder::attention(int sequence, int parity, int frames) const {
  const int rows = kernels_.gemm.geometry.rows, panel = kernels_.gemm.geometry.panel;
  const int per_word = inputs_per_word(dense_),
            panels = first_panel_[sequence + 1] - first_panel_[sequence];
  const std::size_t before = static_cast<std::size_t>(first_panel_[sequence]) * panel *
                             shape_.heads * head_width_ / per_word;
  return {.precision = dense_,
          .heads = shape_.heads,
          .head_width = head_width_,
          .length = frames,
          .queries = queries_.ints() + static_cast<std::size_t>(first_tile_[sequence]) * rows *
                                           shape_.heads * chunks_of(dense_, head_width_) *
                                           kChunkWords,
          .keys = keys_[parity].ints() + before,
          .values = values_[parity].ints() + before,
          .key_panels = panels,
          .key_words = panels * panel / per_word};
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
                           positions_.floats() + static_cast<std::size_t>(first) * stride_,
                           stride_);
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
  const Attention view = attention(block.sequence, index % 2, sequence.frames());
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
    const double length = sequence.frames(), words = double(width) / inputs_per_word(dense_);
    scratch.laps->mark(Step::attention, index, dense_, 4.0 * valid * length * width,
                       sizeof(float) * (words * (valid + 2 * length) + double(valid) * width));
  }
  Rows input = rows(scratch, layer.o);
  kernels_.gemm.put_rows(context, all, count, input);
  mark(scratch, Step::pack, index, 0, 2.0 * valid * width);
  kernels_.gemm.add(input, layer.o, valid, x, stride_);
  mark(scratch, Step::projection, index, layer.o, valid, width, width);

  input = rows(scratch, layer.fc1);
  kernels_.layer_norm.put(x, stride_, count, layer.norm2_weight.floats(), layer.norm2_bias.floats(),
                          input, scratch.staging.floats());
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
  const Attention view = attention(block.sequence, index % 2, sequence.frames());
  const Rows input = rows(scratch, layer.q);
  kernels_.layer_norm.put(x, stride_, count, layer.norm1_weight.floats(), layer.norm1_bias.floats(),
                          input, scratch.staging.floats());
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
    kernels_.layer_norm.mix(x, stride_, count, shape_.width, final_weight_.floats(),
                            final_bias_.floats(), weight, out);
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
    kernels_.layer_norm.mix(x, stride, count, width, final_weight_.floats(), final_bias_.floats(),
                            1.0f, last_.floats());
    x = last_.floats();
    stride = width;
  }
  float* sums = sequence.moments + static_cast<std::size_t>(layer) * width;
  float* squares = sums + static_cast<std::size_t>(shape_.layers + 1) * width;
  kernels_.pool.moments(x, stride, count, width, sums, squares);
}

}  // namespace asa
