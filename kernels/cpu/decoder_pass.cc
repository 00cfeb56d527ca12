// The decoder's passes over its layers: one token after those before it, or a whole text at once.
// Either costs one pass over all matrices, most of it the projection to tokens.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "asa/decoder.h"

namespace asa {
namespace {

constexpr int kPart = 1024;  // tokens whose logits are kept at once: a text's rows stay in cache

}  // namespace

Rows Decoder::rows(const Linear& next) const {
  return {next.precision, next.in, input_.ints(), input_scale_.floats()};
}

void Decoder::normalise(const Norm& norm, const Linear& next, int first, int count) {
  kernels_.layer_norm.put(state_.floats() + static_cast<std::size_t>(first) * stride_, stride_,
                          count, norm.weight.floats(), norm.bias.floats(), rows(next),
                          staging_.floats());
}

void Decoder::embed(int token, int place, float* to) const {
  const int panel = kernels_.gemm.geometry.panel;
  const int words = words_of(inner_, shape_.width);
  const int32_t* lane =
      tokens_.panels + static_cast<std::size_t>(token / panel) * words * panel + token % panel;
  const float* position = positions_.floats() + static_cast<std::size_t>(place) * shape_.width;
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

// One row behind those before it, whose keys and values are kept one by one.
void Decoder::attend_past(const Layer& layer) {
  const int width = shape_.width, real = width / shape_.heads, count = length_ + 1;
  float* q = mixed_.floats();
  float* k = q + all();
  float* v = k + all();
  kernels_.gemm.store(rows(layer.q), layer.q, 0, all(), 1, q, 0);
  kernels_.gemm.store(rows(layer.k), layer.k, 0, all(), 1, k, 0);
  kernels_.gemm.store(rows(layer.v), layer.v, 0, all(), 1, v, 0);
  float* keys = layer.past_keys.floats();
  float* values = layer.past_values.floats();
  float* context = context_.floats();
  std::memset(context, 0, sizeof(float) * all());
  std::vector<float> scores(count);
  float entropy, peak;
  for (int head = 0; head < shape_.heads; ++head) {
    const int from = head * head_width_;
    std::fill(scores.begin(), scores.end(), 0.0f);
    for (int i = 0; i < real; ++i) {
      float* key = keys + static_cast<std::size_t>(head * real + i) * shape_.positions;
      key[length_] = k[from + i];
      for (int j = 0; j < count; ++j) scores[j] += q[from + i] * key[j];
    }
    kernels_.softmax.shares(scores.data(), count, 1, count, &entropy, &peak);
    std::memcpy(values + static_cast<std::size_t>(length_) * width + head * real, v + from,
                sizeof(float) * real);
    for (int j = 0; j < count; ++j) {
      const float* value = values + static_cast<std::size_t>(j) * width + head * real;
      for (int i = 0; i < real; ++i) context[from + i] += scores[j] * value[i];
    }
  }
}

// All rows of a text, each those up to its own.
void Decoder::attend_text(const Layer& layer, int count) {
  const int tile = kernels_.gemm.geometry.rows, panel = kernels_.gemm.geometry.panel;
  const int padded = round_up(count, tile), panels = round_up(padded, panel) / panel;
  const Attention view = {
      .precision = Precision::fp32,
      .heads = shape_.heads,
      .head_width = head_width_,
      .length = count,
      .queries = text_queries_.ints(),
      .keys = text_keys_.ints(),
      .values = text_values_.ints(),
      .key_panels = panels,
      .key_words = panels * panel,
      .query_words = tile * shape_.heads * chunks_of(Precision::fp32, head_width_) * kChunkWords,
      .ahead = 0};
  kernels_.gemm.queries(rows(layer.q), layer.q, padded, view, 0);
  kernels_.gemm.keys(rows(layer.k), layer.k, padded, view, 0);
  kernels_.gemm.values(rows(layer.v), layer.v, padded, view, 0);
  for (int head = 0; head < shape_.heads; ++head) {
    for (int first = 0; first < padded; first += tile) {
      kernels_.attention.attend(
          view, first / tile, head,
          context_.floats() + static_cast<std::size_t>(first) * all() + head * head_width_, all());
    }
  }
}

// seen(head, shares, floats a row, entropies, peaks) takes what each head attended.
template <class Seen>
void Decoder::attend_speech(const Layer& layer, int count, Seen seen) {
  const GemmKernels& gemm = kernels_.gemm;
  const int panel = gemm.geometry.panel;
  const int keys = round_up(frames_, panel), stride = round_up(frames_, kGroup);
  const std::size_t head_words = static_cast<std::size_t>(room_) * words_of(dense_, head_width_);
  const std::size_t room_words = static_cast<std::size_t>(room_) / inputs_per_word(dense_) * panel;
  float* scores = scores_.floats();
  float* entropy = spread_.floats();
  float* peak = entropy + count;
  gemm.store(rows(layer.cross_q), layer.cross_q, 0, all(), count, mixed_.floats(), all());
  for (int head = 0; head < shape_.heads; ++head) {
    Linear by_key, by_value;
    by_key.precision = by_value.precision = dense_;
    by_key.in = head_width_;
    by_key.out = keys;
    by_key.panels = layer.speech_keys.ints() + head * head_words;
    by_value.in = frames_;
    by_value.out = panel;
    by_value.panels = layer.speech_values.ints() + head * head_words;
    by_key.bias = by_value.bias = zeros_.floats();
    gemm.put_rows(mixed_.floats() + head * head_width_, all(), count, rows(by_key));
    gemm.store(rows(by_key), by_key, 0, keys, count, scores, stride);
    kernels_.softmax.shares(scores, stride, count, frames_, entropy, peak);
    seen(head, scores, stride, entropy, peak);
    gemm.put_rows(scores, stride, count, rows(by_value));
    // Between a head's panels there is room for values to come.
    for (int n = 0; n < head_width_; n += panel, by_value.panels += room_words) {
      gemm.store(rows(by_value), by_value, 0, panel, count,
                 context_.floats() + head * head_width_ + n, all());
    }
  }
}

// The first `count` rows of the state through all layers; past(layer) attends to those before, for
// `padded` rows.
template <class Past, class Seen>
void Decoder::run_layers(int count, int padded, Past past, Seen seen) {
  const GemmKernels& gemm = kernels_.gemm;
  float* x = state_.floats();
  for (int index = 0; index < shape_.layers; ++index) {
    const Layer& layer = layers_[index];
    normalise(layer.norm1, layer.q, 0, padded);
    past(layer);
    gemm.put_rows(context_.floats(), all(), count, rows(layer.o));
    gemm.add(rows(layer.o), layer.o, 0, layer.o.out, count, x, stride_);

    normalise(layer.norm2, layer.cross_q, 0, count);
    attend_speech(
        layer, count,
        [&](int head, const float* shares, int stride, const float* entropy, const float* peak) {
          seen(index * shape_.heads + head, shares, stride, entropy, peak);
        });
    gemm.put_rows(context_.floats(), all(), count, rows(layer.cross_o));
    gemm.add(rows(layer.cross_o), layer.cross_o, 0, layer.cross_o.out, count, x, stride_);

    normalise(layer.norm3, layer.fc1, 0, count);
    const Rows hidden = {inner_, shape_.inner, hidden_.ints(), hidden_scale_.floats()};
    gemm.gelu_put(rows(layer.fc1), layer.fc1, count, hidden, staging_.floats());
    gemm.add(hidden, layer.fc2, 0, layer.fc2.out, count, x, stride_);
  }
}

void Decoder::step(int token, float* logits, float* attended) {
  if (token < 0 || token >= shape_.tokens) throw std::invalid_argument("there is no such token");
  if (!frames_ || length_ >= shape_.positions) {
    throw std::logic_error("no speech was given, or there is no position left");
  }
  embed(token, length_, state_.floats());
  run_layers(
      1, 1, [&](const Layer& layer) { attend_past(layer); },
      [&](int head, const float* shares, int, const float*, const float*) {
        if (!attended) return;
        std::memcpy(attended + static_cast<std::size_t>(head) * frames_, shares,
                    sizeof(float) * frames_);
      });
  normalise(final_, tokens_, 0, 1);
  logits_.reserve(tokens_.out);
  kernels_.gemm.store(rows(tokens_), tokens_, 0, tokens_.out, 1, logits_.floats(), 0);
  std::memcpy(logits, logits_.floats(), sizeof(float) * shape_.tokens);
  ++length_;
}

void Decoder::force(const std::vector<int>& tokens, int prompt, const std::vector<int>& heads,
                    const Forced& out) {
  const int all_heads = shape_.layers * shape_.heads;
  const auto is_in = [](const std::vector<int>& values, int end) {
    return std::all_of(values.begin(), values.end(), [=](int v) { return v >= 0 && v < end; });
  };
  if (!frames_) throw std::logic_error("no speech was given");
  if (tokens.size() - 1 > static_cast<std::size_t>(shape_.positions) || prompt < 1 ||
      static_cast<std::size_t>(prompt) >= tokens.size()) {
    throw std::invalid_argument("the prompt is 1 token or more, and of " +
                                std::to_string(tokens.size()) + " tokens 1 or more, at most " +
                                std::to_string(shape_.positions) + ", must follow one");
  }
  if (!is_in(tokens, shape_.tokens)) throw std::invalid_argument("there is no such token");
  if (!is_in(heads, all_heads)) throw std::invalid_argument("there is no such head");
  const int count = static_cast<int>(tokens.size()) - 1, first = prompt - 1;
  const int judged = count - first;
  length_ = 0;
  make_room(count);
  const int padded = round_up(count, kernels_.gemm.geometry.rows);
  std::memset(state_.floats(), 0, sizeof(float) * padded * stride_);
  for (int row = 0; row < count; ++row) {
    embed(tokens[row], row, state_.floats() + static_cast<std::size_t>(row) * stride_);
  }
  std::fill_n(out.attended, static_cast<std::size_t>(judged) * frames_, 0.0f);
  std::fill_n(out.attended_entropy, judged, 0.0f);
  std::fill_n(out.attended_peak, judged, 0.0f);
  run_layers(
      count, padded, [&](const Layer& layer) { attend_text(layer, count); },
      [&](int head, const float* shares, int stride, const float* entropy, const float* peak) {
        const auto times = std::count(heads.begin(), heads.end(), head);
        const float part = static_cast<float>(times) / static_cast<float>(heads.size());
        for (int row = 0; row < judged; ++row) {
          out.attended_entropy[row] += entropy[first + row] / static_cast<float>(all_heads);
          out.attended_peak[row] += peak[first + row] / static_cast<float>(all_heads);
          if (!times) continue;
          const float* from = shares + static_cast<std::size_t>(first + row) * stride;
          float* to = out.attended + static_cast<std::size_t>(row) * frames_;
          for (int t = 0; t < frames_; ++t) to[t] += part * from[t];
        }
      });
  std::fill_n(out.states, static_cast<std::size_t>(judged) * shape_.width, 0.0f);
  kernels_.layer_norm.mix(state_.floats() + static_cast<std::size_t>(first) * stride_, stride_,
                          judged, shape_.width, final_.weight.floats(), final_.bias.floats(), 1.0f,
                          out.states, shape_.width);
  normalise(final_, tokens_, first, judged);
  judge(tokens.data() + prompt, judged, out);
}

// What the rows that are packed say of the tokens, without ever holding all logits.
void Decoder::judge(const int* tokens, int count, const Forced& out) {
  const GemmKernels& gemm = kernels_.gemm;
  const int panel = gemm.geometry.panel, tile = gemm.geometry.rows;
  const int chunks = chunks_of(inner_, shape_.width);
  const Rows all = rows(tokens_);
  logits_.reserve(static_cast<std::size_t>(count) * kPart);
  float* logits = logits_.floats();
  std::vector<Outcome> outcomes(count);
  // A token's own logit first, by the product that gives it later: its rank wants equal bits.
  for (int row = 0; row < count; ++row) {
    const std::size_t at = row / tile;
    Rows own = all;
    own.words += at * chunks * tile * kChunkWords;
    own.scale += at * chunks * 2 * tile;
    const int begin = tokens[row] / panel * panel, valid = std::min(tile, count - int(at) * tile);
    gemm.store(own, tokens_, begin, begin + panel, valid, logits, panel);
    outcomes[row] = {.outcome = tokens[row],
                     .logit = logits[row % tile * panel + tokens[row] - begin]};
  }
  for (int begin = 0; begin < shape_.tokens; begin += kPart) {
    const int end = std::min(begin + kPart, tokens_.out);
    gemm.store(all, tokens_, begin, end, count, logits, kPart);
    for (int row = 0; row < count; ++row) {
      kernels_.softmax.take(logits + static_cast<std::size_t>(row) * kPart, begin,
                            std::min(kPart, shape_.tokens - begin), outcomes[row]);
    }
  }
  for (int row = 0; row < count; ++row) {
    const Outcome& found = outcomes[row];
    const double log_total = std::log(found.total);
    out.own[row] = static_cast<float>(found.logit - found.top - log_total);
    out.best[row] = found.other < 0 ? -std::numeric_limits<float>::infinity()
                                    : static_cast<float>(found.other_logit - found.top - log_total);
    out.other[row] = found.other;
    out.rank[row] = found.rank;
    out.entropy[row] = static_cast<float>(log_total - found.moment / found.total);
  }
}

}  // namespace asa
