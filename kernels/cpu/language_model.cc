// A language model as it stands before it runs: the weights' places and packing; a sequence's keys
// and values.
#include "asa/language_model.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

namespace asa {
namespace {

constexpr int kMostRows = 240;  // of a pass: tiles of 12 and of 6, within the second-level cache

}  // namespace

LanguageModel::LanguageModel(const LanguageModelShape& shape, Precision precision, int threads,
                             const Kernels& kernels)
    : PackedWeights("language model"),
      shape_(shape),
      precision_(precision),
      kernels_(kernels),
      pool_(threads) {
  const auto in = [](int value, int most) { return value >= 1 && value <= most; };
  if (!in(shape.width, 16384) || !in(shape.layers, 256) || !in(shape.heads, 256) ||
      !in(shape.kv_heads, shape.heads) || !in(shape.head_width, 512) || !in(shape.inner, 1 << 17) ||
      !in(shape.positions, 1 << 20) || !in(shape.rotated, shape.head_width) || shape.rotated % 2 ||
      shape.heads % shape.kv_heads || precision == Precision::int16 ||
      !(shape.epsilon > 0.0f && shape.epsilon < 1.0f)) {
    throw std::invalid_argument("not the shape of a language model");
  }
  const int panel = kernels_.gemm.geometry.panel;
  stride_ = round_up(shape.width, kGroup);
  mixed_stride_ = round_up(head_outputs(), kGroup);
  padded_head_ = round_up(shape.head_width, panel);
  most_rows_ = kMostRows;
  layers_.resize(shape.layers);
  scratch_.resize(threads);
  count_words();
}

std::size_t LanguageModel::lay_out(std::int32_t* words) {
  const int panel = kernels_.gemm.geometry.panel;
  WeightLayout layout(words, panel);
  for (Layer& layer : layers_) {
    layer.norm1 = layout.floats(shape_.width);
    layout.place(layer.qkv, precision_, shape_.width,
                 (shape_.heads + 2 * shape_.kv_heads) * shape_.head_width);
    layout.place(layer.o, precision_, head_outputs(), shape_.width);
    layer.norm2 = layout.floats(shape_.width);
    layout.place(layer.gated, precision_, shape_.width, 2 * round_up(shape_.inner, panel));
    layout.place(layer.down, precision_, shape_.inner, shape_.width);
  }
  closing_ = layout.floats(shape_.width);
  const std::size_t angles = static_cast<std::size_t>(shape_.positions) * (shape_.rotated / 2);
  cosines_ = layout.floats(angles);
  sines_ = layout.floats(angles);
  return layout.used();
}

void LanguageModel::consider_set() {
  layers_set_ = shape_.layers;
  closing_set_ = true;
}

// pick(n) gives the matrix of which output n is a row, and which; null for an output of zeros.
template <class Pick>
void LanguageModel::pack(const Linear& to, int inputs, Pick pick) const {
  const std::size_t in = inputs, groups = chunks_of(Precision::int8, inputs);
  const bool steps = pick(0).first->steps != nullptr;
  std::vector<float> weight, scale, bias(to.out);
  std::vector<std::int8_t> bytes;
  if (steps) {
    bytes.resize(in * to.out);
    scale.resize(groups * to.out);
  } else {
    weight.resize(in * to.out);
  }
  for (int n = 0; n < to.out; ++n) {
    const auto [from, row] = pick(n);
    if (!from) continue;
    if (from->bias) bias[n] = from->bias[row];
    if (steps) {
      std::memcpy(bytes.data() + n * in, from->steps + row * in, in);
      std::memcpy(scale.data() + n * groups, from->scale + row * groups, sizeof(float) * groups);
    } else {
      std::memcpy(weight.data() + n * in, from->weight + row * in, sizeof(float) * in);
    }
  }
  if (steps) {
    kernels_.gemm.pack_steps(bytes.data(), scale.data(), bias.data(), to);
  } else {
    kernels_.gemm.pack(weight.data(), bias.data(), to);
  }
}

void LanguageModel::set_layer(int index, const LanguageLayerWeights& w) {
  if (index != layers_set_ || index >= shape_.layers) {
    throw std::logic_error("layers are set in order, once");
  }
  const bool steps = w.q.steps != nullptr;
  for (const Matrix* m : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down}) {
    const bool whole = steps ? m->steps && m->scale : m->weight != nullptr;
    if (!whole || (steps && precision_ != Precision::int8)) {
      throw std::invalid_argument("linear layers are all float32, or at int8 all steps and scales");
    }
  }
  make_room();
  using Row = std::pair<const Matrix*, std::size_t>;
  const int q = head_outputs(), kv = shape_.kv_heads * shape_.head_width;
  const int panel = kernels_.gemm.geometry.panel;
  const auto within = [](const Matrix& m, int n, int end) {
    return n < end ? Row{&m, static_cast<std::size_t>(n)} : Row{nullptr, 0};
  };
  Layer& to = layers_[index];
  for (Linear* linear : {&to.qkv, &to.o, &to.gated, &to.down}) linear->paired = !steps;
  std::memcpy(to.norm1, w.norm1, sizeof(float) * shape_.width);
  std::memcpy(to.norm2, w.norm2, sizeof(float) * shape_.width);
  pack(to.qkv, shape_.width, [&](int n) {
    if (n < q) return within(w.q, n, q);
    return n < q + kv ? within(w.k, n - q, kv) : within(w.v, n - q - kv, kv);
  });
  pack(to.o, q, [&](int n) { return within(w.o, n, shape_.width); });
  pack(to.gated, shape_.width, [&](int n) {
    const int unit = n / (2 * panel) * panel + n % panel;
    return within(n / panel % 2 ? w.up : w.gate, unit, shape_.inner);
  });
  pack(to.down, shape_.inner, [&](int n) { return within(w.down, n, shape_.width); });
  ++layers_set_;
}

void LanguageModel::set_closing(const float* norm, const float* cosines, const float* sines) {
  if (closing_set_) throw std::logic_error("the closing norm is set once");
  make_room();
  const std::size_t angles = static_cast<std::size_t>(shape_.positions) * (shape_.rotated / 2);
  std::memcpy(closing_, norm, sizeof(float) * shape_.width);
  std::memcpy(cosines_, cosines, sizeof(float) * angles);
  std::memcpy(sines_, sines, sizeof(float) * angles);
  closing_set_ = true;
}

Past::Past(const LanguageModel& model, int capacity) : model_(model), capacity_(capacity) {
  const LanguageModelShape& s = model.shape_;
  if (capacity < 1 || capacity > s.positions) {
    throw std::invalid_argument("a sequence has room for 1 to " + std::to_string(s.positions) +
                                " positions");
  }
  room_ = round_up(capacity, model.kernels_.gemm.geometry.panel);
  const std::size_t words =
      static_cast<std::size_t>(s.layers) * s.kv_heads * model.padded_head_ * room_;
  keys_ = Buffer(words);
  values_ = Buffer(words);
}

float* Past::key(int layer, int head, int position) const {
  const std::size_t panel = model_.kernels_.gemm.geometry.panel;
  const std::size_t at = static_cast<std::size_t>(layer) * model_.shape_.kv_heads + head;
  return keys_.floats() + (at * (room_ / panel) + position / panel) * model_.padded_head_ * panel +
         position % panel;
}

float* Past::value(int layer, int head, int position) const {
  const std::size_t panel = model_.kernels_.gemm.geometry.panel;
  const std::size_t at = static_cast<std::size_t>(layer) * model_.shape_.kv_heads + head;
  return values_.floats() + at * model_.padded_head_ * room_ + position * panel;
}

void Past::rewind(int length) {
  if (length < 0 || length > length_) {
    throw std::invalid_argument("cannot rewind " + std::to_string(length_) + " positions to " +
                                std::to_string(length));
  }
  length_ = length;
}

void Past::begin_like(const Past& other, int length) {
  if (&other.model_ != &model_ || length < 0 || length > other.length_ || length > capacity_) {
    throw std::invalid_argument("not a beginning of a sequence of this model, or no room for it");
  }
  const int panel = model_.kernels_.gemm.geometry.panel, head = model_.padded_head_;
  const std::size_t keys = static_cast<std::size_t>(round_up(length, panel)) * head;
  for (int layer = 0; layer < model_.shape_.layers; ++layer) {
    for (int h = 0; h < model_.shape_.kv_heads; ++h) {
      std::memcpy(key(layer, h, 0), other.key(layer, h, 0), sizeof(float) * keys);
      for (int n = 0; n < head / panel; ++n) {
        std::memcpy(value(layer, h, 0) + static_cast<std::size_t>(n) * room_ * panel,
                    other.value(layer, h, 0) + static_cast<std::size_t>(n) * other.room_ * panel,
                    sizeof(float) * length * panel);
      }
    }
  }
  length_ = length;
}

void Past::read(float* state) const {
  const LanguageModelShape& s = model_.shape_;
  const int panel = model_.kernels_.gemm.geometry.panel;
  for (int part = 0; part < 2; ++part) {
    for (int layer = 0; layer < s.layers; ++layer) {
      for (int head = 0; head < s.kv_heads; ++head) {
        for (int p = 0; p < length_; ++p) {
          const float* from = part ? value(layer, head, p) : key(layer, head, p);
          const std::size_t step = part ? static_cast<std::size_t>(room_) * panel : panel * panel;
          for (int i = 0; i < s.head_width; ++i) {
            *state++ = from[i / panel * step + i % panel * (part ? 1 : panel)];
          }
        }
      }
    }
  }
}

void Past::write(const float* state, int count) {
  const LanguageModelShape& s = model_.shape_;
  if (count < 0 || count > capacity_) {
    throw std::invalid_argument("there is room for " + std::to_string(capacity_) + " positions");
  }
  const int panel = model_.kernels_.gemm.geometry.panel;
  for (int part = 0; part < 2; ++part) {
    for (int layer = 0; layer < s.layers; ++layer) {
      for (int head = 0; head < s.kv_heads; ++head) {
        for (int p = 0; p < count; ++p) {
          float* to = part ? value(layer, head, p) : key(layer, head, p);
          const std::size_t step = part ? static_cast<std::size_t>(room_) * panel : panel * panel;
          for (int i = 0; i < s.head_width; ++i) {
            to[i / panel * step + i % panel * (part ? 1 : panel)] = *state++;
          }
        }
      }
    }
  }
  length_ = count;
}

}  // namespace asa
