// The order of work. Each layer is one round of tasks, one a block of rows: attention, its output
// projection, the feed-forward layers, and the next layer's queries, keys and values. Nothing but
// the residual stream, queries, keys and values outlives a task; keys and values alternate between
// two buffers, because blocks still read the old ones while others write the new. Queries need not:
// a block reads its own, and a tile's stay in one place whatever their precision.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "asa/balance.h"
#include "asa/encoder.h"

namespace asa {

void Encoder::encode(const std::vector<Sequence>& batch, const std::vector<float>& layer_weights) {
  std::lock_guard lock(mutex_);
  if (!all_set()) throw std::logic_error("the encoder's weights are not all set");
  const std::size_t outputs = layer_weights.size() / (shape_.layers + 1);
  if (!outputs || layer_weights.size() % (shape_.layers + 1)) {
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
    std::memset(
        sequence.out, 0,
        sizeof(float) * static_cast<std::size_t>(sequence.frames()) * outputs * shape_.width);
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
      for (std::size_t o = 0; o < outputs; ++o) {
        mix(round, sequence, block, layer_weights[o * (shape_.layers + 1) + round],
            {static_cast<int>(o), static_cast<int>(outputs)}, scratch);
      }
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
  queries_.reserve(static_cast<std::size_t>(tiles) * query_words_);
  const std::size_t block_rows = static_cast<std::size_t>(largest) * rows;
  const std::size_t conv_rows = round_up(static_cast<int>(2 * block_rows) + 1, rows);
  // A row's words before a linear layer.
  const auto words = [](const Linear& next) {
    return static_cast<std::size_t>(chunks_of(next.precision, next.in)) * kChunkWords;
  };
  std::size_t input = std::max(conv_rows * words(conv1_), block_rows * words(conv2_)), hidden = 0;
  std::size_t input_scales =
      std::max(conv_rows * groups_of(conv1_.in), block_rows * groups_of(conv2_.in));
  for (int index = 0; index < shape_.layers; ++index) {
    const Layer& layer = layers_[index];
    const std::size_t pairs = panels * panel * all / inputs_per_word(layer.dense);
    keys_[index % 2].reserve(pairs);
    values_[index % 2].reserve(pairs);
    if (layer.dense == Precision::int16) {
      value_scale_[index % 2].reserve(static_cast<std::size_t>(panels) * shape_.heads * panel);
    }
    if (is_scaled(layer.scores)) {
      query_scale_.reserve(static_cast<std::size_t>(tiles) * shape_.heads * 2 * rows);
      key_scale_[index % 2].reserve(static_cast<std::size_t>(panels) * shape_.heads * 2 * panel);
    }
    for (const Linear* next : {&layer.q, &layer.o, &layer.fc1}) {
      input = std::max(input, block_rows * words(*next));
      input_scales = std::max(input_scales, block_rows * groups_of(next->in));
    }
    hidden = std::max(hidden, block_rows * words(layer.fc2));
  }
  for (Scratch& scratch : scratch_) {
    scratch.mel.reserve((conv_rows + 2) * shape_.mels + 2 * kGroup);
    scratch.conv.reserve(conv_rows * stride_);
    scratch.input.reserve(input);
    scratch.input_scale.reserve(2 * input_scales);
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
  const bool scaled = is_scaled(scores);
  return {
      .precision = dense,
      .heads = shape_.heads,
      .head_width = head_width_,
      .length = frames,
      .queries = queries_.ints() + tile * query_words_,
      .keys = keys_[parity].ints() + keys * head_width_ / inputs_per_word(scores),
      .values = values_[parity].ints() + keys * head_width_ / per_word,
      .key_panels = panels,
      .key_words = panels * panel / per_word,
      .query_words = query_words_,
      .scores = scores,
      .query_scale = scaled ? query_scale_.floats() + tile * heads * 2 * rows : nullptr,
      .key_scale = scaled ? key_scale_[parity].floats() + keys * 2 : nullptr,
      .value_scale = dense == Precision::int16 ? value_scale_[parity].floats() + keys : nullptr};
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
  kernels_.gemm.add(input, layer.o, 0, layer.o.out, valid, x, stride_);
  mark(scratch, Step::projection, index, layer.o, valid, width, width);

  input = rows(scratch, layer.fc1);
  kernels_.layer_norm.put(x, stride_, count, layer.norm2_weight, layer.norm2_bias, input,
                          scratch.staging.floats());
  mark(scratch, Step::norm, index, 8.0 * valid * width, 2.0 * valid * width);
  const Rows hidden = {layer.fc2.precision, layer.fc2.in, scratch.hidden.ints(),
                       scratch.hidden_scale.floats()};
  kernels_.gemm.gelu_put(input, layer.fc1, valid, hidden, scratch.staging.floats());
  mark(scratch, Step::expand, index, layer.fc1, valid, width, shape_.inner);
  kernels_.gemm.add(hidden, layer.fc2, 0, layer.fc2.out, valid, x, stride_);
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
                  Column column, Scratch& scratch) {
  if (weight == 0.0f) return;
  const int tile_rows = kernels_.gemm.geometry.rows;
  const int first = block.first_tile * tile_rows;
  const int count = std::min(block.tiles * tile_rows, sequence.frames() - first);
  const float* x =
      residual_.floats() +
      (static_cast<std::size_t>(first_tile_[block.sequence]) * tile_rows + first) * stride_;
  const int out_stride = column.of * shape_.width;
  float* out =
      sequence.out + static_cast<std::size_t>(first) * out_stride + column.index * shape_.width;
  if (layer == shape_.layers) {
    kernels_.layer_norm.mix(x, stride_, count, shape_.width, final_weight_, final_bias_, weight,
                            out, out_stride);
  } else {
    kernels_.layer_norm.add_scaled(x, stride_, count, shape_.width, weight, out, out_stride);
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
                            last_.floats(), width);
    x = last_.floats();
    stride = width;
  }
  float* sums = sequence.moments + static_cast<std::size_t>(layer) * width;
  float* squares = sums + static_cast<std::size_t>(shape_.layers + 1) * width;
  kernels_.pool.moments(x, stride, count, width, sums, squares);
}

}  // namespace asa
