// A language model's passes over its layers. Products are shared among threads by outputs, so that
// each weight is read once, by one of them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "asa/language_model.h"

namespace asa {
namespace {

constexpr int kTasksAThread = 4;  // enough that none waits long for the others

std::size_t row_words(Precision precision, int in, int rows) {
  return static_cast<std::size_t>(chunks_of(precision, in)) * kChunkWords * rows;
}

}  // namespace

Rows LanguageModel::input(const Linear& next) const {
  return {next.precision, next.in, input_.ints(), input_scale_.floats()};
}

void LanguageModel::extend(const std::vector<Extension>& batch) {
  std::lock_guard lock(mutex_);
  if (!all_set()) throw std::logic_error("the language model's weights are not all set");
  std::vector<const Past*> seen;
  int all = 0;
  for (const Extension& e : batch) {
    if (&e.past->model_ != this || std::count(seen.begin(), seen.end(), e.past)) {
      throw std::invalid_argument("a sequence is of this model, and once in a batch");
    }
    seen.push_back(e.past);
    if (e.count < 0 || e.count > e.past->capacity_ - e.past->length_) {
      throw std::invalid_argument(std::to_string(e.count) + " rows do not fit the " +
                                  std::to_string(e.past->capacity_ - e.past->length_) +
                                  " positions that are free");
    }
    if (e.wanted < 0 || e.wanted > e.count) {
      throw std::invalid_argument("no more hidden states than rows");
    }
    all = std::min(all + e.count, most_rows_);
  }
  if (!all) return;
  const int tile = kernels_.gemm.geometry.rows, panel = kernels_.gemm.geometry.panel;
  if (all > room_) {
    room_ = round_up(all, tile);
    const std::size_t rows = room_;
    const int widest = std::max(shape_.width, head_outputs());
    residual_.reserve(rows * stride_);
    projected_.reserve(rows * layers_[0].qkv.out);
    mixed_.reserve(rows * mixed_stride_);
    input_.reserve(row_words(precision_, widest, room_));
    hidden_.reserve(row_words(precision_, shape_.inner, room_));
    input_scale_.reserve(2 * rows * chunks_of(Precision::int8, widest));
    hidden_scale_.reserve(2 * rows * chunks_of(Precision::int8, shape_.inner));
    const std::size_t head = round_up(padded_head_, kGroup);
    for (Scratch& scratch : scratch_) {
      scratch.query.reserve(tile * head);
      scratch.packed_query.reserve(row_words(Precision::fp32, padded_head_, tile));
      scratch.attended.reserve(tile * padded_head_);
      scratch.staging.reserve(std::max<std::size_t>(stride_, rows * (kGroup + panel)));
    }
  }
  std::vector<Segment> segments;
  int rows = 0;
  const ThreadPool::Session awake(pool_, pool_.threads());
  const auto flush = [&] {
    if (rows) run(segments, rows);
    segments.clear();
    rows = 0;
  };
  for (const Extension& e : batch) {
    for (int done = 0; done < e.count;) {
      if (rows == most_rows_) flush();
      const int count = std::min(e.count - done, most_rows_ - rows);
      const int first = e.count - e.wanted;  // the first row that is wanted
      const int wanted = std::min(count, std::max(0, done + count - first));
      const int before = done + count - wanted - first;  // hidden states of earlier passes
      float* hidden = wanted ? e.hidden + static_cast<std::size_t>(before) * shape_.width : nullptr;
      for (int i = 0; i < count; ++i) {
        std::memcpy(residual_.floats() + static_cast<std::size_t>(rows + i) * stride_,
                    e.embeddings + static_cast<std::size_t>(done + i) * shape_.width,
                    sizeof(float) * shape_.width);
      }
      segments.push_back({e.past, rows, rows, count, e.past->length_, wanted, hidden});
      rows += count;
      done += count;
      if (done < e.count) flush();
    }
  }
  flush();
}

void LanguageModel::run(std::vector<Segment>& segments, int rows) {
  for (int index = 0; index < shape_.layers; ++index) {
    const Layer& layer = layers_[index];
    normalise(layer.norm1, layer.qkv, rows);
    project(layer, rows);
    cut(segments, 1);
    keep(index, segments);
    if (index == shape_.layers - 1) {
      for (const Segment& s : segments) s.past->length_ = s.position + s.count;
      // Of the last layer only what is asked for: no later row reads the others.
      rows = narrow(segments);
      if (!rows) return;
    }
    cut(segments, shape_.heads / shape_.kv_heads);
    attend(index, segments);
    mix(layer, rows);
  }
  for (const Segment& s : segments) {
    kernels_.rms_norm.store(residual_.floats() + static_cast<std::size_t>(s.to) * stride_, stride_,
                            s.count, shape_.width, closing_, shape_.epsilon, s.hidden);
  }
}

// Cuts each segment's rows, every one `times` times there, into tiles.
void LanguageModel::cut(const std::vector<Segment>& segments, int times) {
  const int tile = kernels_.gemm.geometry.rows;
  pieces_.clear();
  for (int s = 0; s < static_cast<int>(segments.size()); ++s) {
    const int all = segments[s].count * times;
    for (int first = 0; first < all; first += tile) {
      pieces_.push_back({s, first, std::min(tile, all - first)});
    }
  }
}

void LanguageModel::normalise(const float* norm, const Linear& next, int rows) {
  const int tile = kernels_.gemm.geometry.rows, chunks = chunks_of(next.precision, next.in);
  pool_.run((rows + tile - 1) / tile, [&](int t, int thread) {
    Rows to = input(next);
    to.words += static_cast<std::size_t>(t) * chunks * tile * kChunkWords;
    to.scale += static_cast<std::size_t>(t) * chunks * 2 * tile;
    kernels_.rms_norm.put(residual_.floats() + static_cast<std::size_t>(t) * tile * stride_,
                          stride_, std::min(tile, rows - t * tile), norm, shape_.epsilon, to,
                          scratch_[thread].staging.floats());
  });
}

// work(begin, end, thread) takes outputs; `step` of them stay together.
template <class Work>
void LanguageModel::by_columns(int out, int step, Work work) {
  const int units = (out + step - 1) / step;
  const int tasks = threads() == 1 ? 1 : std::min(units, kTasksAThread * threads());
  pool_.run(tasks, [&](int task, int thread) {
    work(units * task / tasks * step, std::min(out, units * (task + 1) / tasks * step), thread);
  });
}

void LanguageModel::project(const Layer& layer, int rows) {
  const int out = layer.qkv.out;
  by_columns(out, kernels_.gemm.geometry.panel, [&](int begin, int end, int) {
    kernels_.gemm.store(input(layer.qkv), layer.qkv, begin, end, rows, projected_.floats() + begin,
                        out);
  });
}

// Keys, turned, and values of the new rows go where they stay.
void LanguageModel::keep(int layer, const std::vector<Segment>& segments) {
  const LanguageModelShape& s = shape_;
  const int panel = kernels_.gemm.geometry.panel, half = s.rotated / 2;
  const int out = layers_[layer].qkv.out, keys = head_outputs();
  pool_.run(static_cast<int>(pieces_.size()), [&](int task, int thread) {
    const Piece& piece = pieces_[task];
    const Segment& segment = segments[piece.segment];
    float* turned = scratch_[thread].query.floats();
    for (int i = piece.first; i < piece.first + piece.count; ++i) {
      const float* row = projected_.floats() + static_cast<std::size_t>(segment.row + i) * out;
      const int at = segment.position + i;
      const std::size_t angle = static_cast<std::size_t>(at) * half;
      for (int head = 0; head < s.kv_heads; ++head) {
        kernels_.rotary.turn(row + keys + head * s.head_width, s.head_width, cosines_ + angle,
                             sines_ + angle, half, 1.0f, turned);
        float* key = segment.past->key(layer, head, at);
        for (int c = 0; c < s.head_width; ++c, key += panel) *key = turned[c];
        const float* from = row + keys + (s.kv_heads + head) * s.head_width;
        float* value = segment.past->value(layer, head, at);
        for (int c = 0; c < s.head_width; c += panel) {
          std::memcpy(value, from + c, sizeof(float) * std::min(panel, s.head_width - c));
          value += static_cast<std::size_t>(segment.past->room_) * panel;
        }
      }
    }
  });
}

// Leaves the rows whose hidden states are wanted, and moves them together; returns how many.
int LanguageModel::narrow(std::vector<Segment>& segments) {
  int rows = 0;
  for (Segment& s : segments) {
    const int skipped = s.count - s.wanted;
    for (int i = 0; i < s.wanted; ++i, ++rows) {
      std::memmove(residual_.floats() + static_cast<std::size_t>(rows) * stride_,
                   residual_.floats() + static_cast<std::size_t>(s.to + skipped + i) * stride_,
                   sizeof(float) * shape_.width);
    }
    s.row += skipped;
    s.position += skipped;
    s.count = s.wanted;
    s.to = rows - s.wanted;
  }
  return rows;
}

void LanguageModel::attend(int layer, const std::vector<Segment>& segments) {
  pool_.run(static_cast<int>(pieces_.size()) * shape_.kv_heads, [&](int task, int thread) {
    const Piece& piece = pieces_[task / shape_.kv_heads];
    attend_tile(layer, segments[piece.segment], piece, task % shape_.kv_heads, scratch_[thread]);
  });
}

// A tile of rows that read the same keys: of one row after another all heads of the group.
void LanguageModel::attend_tile(int layer, const Segment& segment, const Piece& piece, int kv_head,
                                Scratch& scratch) const {
  const LanguageModelShape& s = shape_;
  const int tile = kernels_.gemm.geometry.rows, panel = kernels_.gemm.geometry.panel;
  const int group = s.heads / s.kv_heads, half = s.rotated / 2, out = layers_[layer].qkv.out;
  const int stride = round_up(padded_head_, kGroup);
  // The softmax is taken to base 2.
  const float factor = 1.44269504089f / std::sqrt(static_cast<float>(s.head_width));
  std::int32_t positions[64];
  float* query = scratch.query.floats();
  const auto head_of = [&](int j) { return kv_head * group + (piece.first + j) % group; };
  const auto row_of = [&](int j) { return (piece.first + j) / group; };
  std::memset(query, 0, sizeof(float) * tile * stride);
  for (int j = 0; j < tile; ++j) {
    const int valid = std::min(j, piece.count - 1), row = row_of(valid);
    positions[j] = segment.position + row;
    if (j != valid) continue;
    const std::size_t angle = static_cast<std::size_t>(positions[j]) * half;
    kernels_.rotary.turn(projected_.floats() + static_cast<std::size_t>(segment.row + row) * out +
                             head_of(j) * s.head_width,
                         s.head_width, cosines_ + angle, sines_ + angle, half, factor,
                         query + static_cast<std::size_t>(j) * stride);
  }
  const Rows packed = {Precision::fp32, padded_head_, scratch.packed_query.ints(), nullptr};
  kernels_.gemm.put_rows(query, stride, tile, packed);
  const Past& past = *segment.past;
  const Attention view = {.precision = Precision::fp32,
                          .heads = 1,
                          .head_width = padded_head_,
                          .length = positions[tile - 1] + 1,
                          .queries = packed.words,
                          .keys = reinterpret_cast<std::int32_t*>(past.key(layer, kv_head, 0)),
                          .values = reinterpret_cast<std::int32_t*>(past.value(layer, kv_head, 0)),
                          .key_panels = past.room_ / panel,
                          .key_words = past.room_,
                          .query_words = 0,
                          .ahead = 0,
                          .positions = positions};
  kernels_.attention.attend(view, 0, 0, scratch.attended.floats(), padded_head_);
  for (int j = 0; j < piece.count; ++j) {
    std::memcpy(mixed_.floats() + static_cast<std::size_t>(segment.to + row_of(j)) * mixed_stride_ +
                    head_of(j) * s.head_width,
                scratch.attended.floats() + static_cast<std::size_t>(j) * padded_head_,
                sizeof(float) * s.head_width);
  }
}

// What follows attention: the output projection and the feed-forward layer.
void LanguageModel::mix(const Layer& layer, int rows) {
  const GemmKernels& gemm = kernels_.gemm;
  const int tile = gemm.geometry.rows, panel = gemm.geometry.panel;
  const int chunks = chunks_of(precision_, layer.o.in);
  float* x = residual_.floats();
  pool_.run((rows + tile - 1) / tile, [&](int t, int) {
    Rows to = input(layer.o);
    to.words += static_cast<std::size_t>(t) * chunks * tile * kChunkWords;
    to.scale += static_cast<std::size_t>(t) * chunks * 2 * tile;
    gemm.put_rows(mixed_.floats() + static_cast<std::size_t>(t) * tile * mixed_stride_,
                  mixed_stride_, std::min(tile, rows - t * tile), to);
  });
  by_columns(layer.o.out, panel, [&](int begin, int end, int) {
    gemm.add(input(layer.o), layer.o, begin, end, rows, x, stride_);
  });
  normalise(layer.norm2, layer.gated, rows);
  const Rows hidden = {precision_, shape_.inner, hidden_.ints(), hidden_scale_.floats()};
  by_columns(layer.gated.out, 2 * kGroup, [&](int begin, int end, int thread) {
    gemm.gated_put(input(layer.gated), layer.gated, begin, end, rows, hidden,
                   scratch_[thread].staging.floats());
  });
  by_columns(layer.down.out, panel, [&](int begin, int end, int) {
    gemm.add(hidden, layer.down, begin, end, rows, x, stride_);
  });
}

}  // namespace asa
