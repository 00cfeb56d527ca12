#include "judge.h"

#include <algorithm>
#include <cmath>

namespace asa {
namespace {

constexpr float kClip = 4;  // standardised numbers are held to so many deviations
constexpr double kEpsilon = 1e-5;

std::vector<float> turned(const std::vector<float>& matrix, int rows, int cols) {
  std::vector<float> to(matrix.size());
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c) {
      to[static_cast<std::size_t>(c) * rows + r] = matrix[static_cast<std::size_t>(r) * cols + c];
    }
  }
  return to;
}

// A matrix as PyTorch has it, [out][in].
Dense dense(const DeviceFile& file, const std::string& name, int in, int out) {
  const auto weight = file.read(name, static_cast<std::uint64_t>(in) * out);
  return Dense(turned(weight, out, in).data(), in, out);
}

Table times(const Dense& dense, const Table& rows) {
  Table found(rows.rows, dense.out());
  dense.run(rows.values.data(), rows.rows, found.values.data());
  return found;
}

float standard(float value, float mean, float scale) {
  return std::clamp((value - mean) / scale, -kClip, kClip);
}

// Held, so that the exponential stays finite.
float silu(float x) { return x / (1 + std::exp(-std::max(x, -80.0f))); }

void add(Table& to, const float* bias) {
  for (int r = 0; r < to.rows; ++r) {
    for (int c = 0; c < to.cols; ++c) to[r][c] += bias[c];
  }
}

void add_silu(Table& to, const float* bias) {
  add(to, bias);
  for (float& value : to.values) value = silu(value);
}

Table normalised(const Table& x, const float* weight, const float* bias) {
  Table found(x.rows, x.cols);
  for (int r = 0; r < x.rows; ++r) {
    double sum = 0, squares = 0;
    for (int c = 0; c < x.cols; ++c) sum += x[r][c];
    const auto mean = static_cast<float>(sum / x.cols);
    for (int c = 0; c < x.cols; ++c) squares += double{x[r][c] - mean} * (x[r][c] - mean);
    const auto scale = static_cast<float>(std::sqrt(squares / x.cols + kEpsilon));
    for (int c = 0; c < x.cols; ++c) found[r][c] = (x[r][c] - mean) / scale * weight[c] + bias[c];
  }
  return found;
}

void softmax(float* x, int count) {
  const float top = largest(x, count);
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += x[i] = std::exp(x[i] - top);
  for (int i = 0; i < count; ++i) x[i] = static_cast<float>(x[i] / sum);
}

}  // namespace

PhoneLayer::PhoneLayer(const DeviceFile& file, int width, int hidden)
    : norm_weight_(file.read("phones.norm.weight", width)),
      norm_bias_(file.read("phones.norm.bias", width)),
      bias1_(file.read("phones.fc1.bias", hidden)),
      bias2_(file.read("phones.fc2.bias", kClasses)),
      fc1_(dense(file, "phones.fc1.weight", width, hidden)),
      fc2_(dense(file, "phones.fc2.weight", hidden, kClasses)) {}

Table PhoneLayer::run(const Table& frames) const {
  Table x = times(fc1_, normalised(frames, norm_weight_.data(), norm_bias_.data()));
  add_silu(x, bias1_.data());
  Table found = times(fc2_, x);
  add(found, bias2_.data());
  for (int t = 0; t < found.rows; ++t) {
    const float top = largest(found[t], kClasses);
    double sum = 0;
    for (int c = 0; c < kClasses; ++c) sum += std::exp(found[t][c] -= top);
    const auto log_sum = static_cast<float>(std::log(sum));
    for (int c = 0; c < kClasses; ++c) found[t][c] -= log_sum;
  }
  check_numbers(found.values);
  return found;
}

Verdict::Verdict(const DeviceFile& file, const std::string& name, int inputs, int hidden)
    : mean_(file.read(name + ".mean", inputs)),
      scale_(file.read(name + ".scale", inputs)),
      bias1_(file.read(name + ".fc1.bias", hidden)),
      bias2_(file.read(name + ".fc2.bias", 1)),
      fc1_(dense(file, name + ".fc1.weight", inputs, hidden)),
      fc2_(dense(file, name + ".fc2.weight", hidden, 1)) {}

std::vector<float> Verdict::log_odds(const Table& rows) const {
  Table x(rows.rows, rows.cols);
  for (int r = 0; r < rows.rows; ++r) {
    for (int c = 0; c < rows.cols; ++c) x[r][c] = standard(rows[r][c], mean_[c], scale_[c]);
  }
  Table hidden = times(fc1_, x);
  add_silu(hidden, bias1_.data());
  Table found = times(fc2_, hidden);
  add(found, bias2_.data());
  return found.values;
}

Table Judge::Linear::run(int seed, const Table& rows) const {
  Table found = times(weight[seed], rows);
  add(found, bias.data() + static_cast<std::size_t>(seed) * found.cols);
  return found;
}

Judge::Linear Judge::linear(const DeviceFile& file, const std::string& name, int in,
                            int out) const {
  const std::size_t size = static_cast<std::size_t>(in) * out, seeds = shape_.seeds;
  const auto weights = file.read("text." + name + ".weight", seeds * size);
  Linear to;
  for (std::size_t seed = 0; seed < seeds; ++seed) {
    to.weight.emplace_back(weights.data() + seed * size, in, out);
  }
  to.bias = file.read("text." + name + ".bias", seeds * out);
  return to;
}

Judge::Norm Judge::norm(const DeviceFile& file, const std::string& name) const {
  const std::uint64_t count = static_cast<std::uint64_t>(shape_.seeds) * shape_.width;
  return {file.read("text." + name + ".weight", count), file.read("text." + name + ".bias", count)};
}

Judge::Judge(const DeviceFile& file, const JudgeShape& shape, int layers, int width)
    : shape_(shape),
      frames_mean_(file.read("text.frames.mean", 2 * width)),
      phone_(file.read("text.phone",
                       static_cast<std::uint64_t>(shape.seeds) * kClasses * shape.width)),
      net_pooled_(file.read("text.net_pooled", shape.net_pooled)),
      blend_(file.read("text.blend", shape.aspects)),
      kernel_reading_(file.read("text.kernel.reading", kReadingNumbers)),
      kernel_pooled_(file.read("text.kernel.pooled", shape.pooled)),
      kernel_centres_(file.read("text.kernel.centres", static_cast<std::uint64_t>(shape.centres) *
                                                           (kReadingNumbers + shape.pooled))),
      kernel_weights_(file.read("text.kernel.weights",
                                static_cast<std::uint64_t>(shape.centres) * shape.aspects)),
      kernel_mean_(file.read("text.kernel.mean", shape.aspects)),
      frames_directions_(
          file.read("text.frames.directions", std::uint64_t(2) * width * shape.directions).data(),
          2 * width, shape.directions),
      pooled_directions_(file.read("text.pooled.directions",
                                   std::uint64_t(2) * (layers + 1) * width * shape.pooled)
                             .data(),
                         std::size_t(2) * (layers + 1) * width, shape.pooled) {
  const JudgeShape& s = shape_;
  const auto both = [&](const char* name, int count) {
    const std::string full = std::string("text.") + name;
    return Standard{file.read(full + ".mean", count), file.read(full + ".scale", count)};
  };
  const int inputs = kPhoneScalars + kClasses + s.directions + kWordScalars;
  const int whole = kReadingNumbers + s.net_pooled;
  input_ = both("input", inputs);
  reading_ = both("reading", kReadingNumbers);
  pooled_ = both("pooled", 2 * (layers + 1) * width);
  words_ = both("words", kWordScalars);
  scores_ = both("scores", s.aspects);
  word_scores_ = both("word_scores", 1);
  phone_scores_ = both("phone_scores", 1);
  first_ = linear(file, "input", inputs, s.width);
  context_ = linear(file, "context", whole, s.width);
  for (int layer = 0; layer < s.layers; ++layer) {
    const std::string name = "layers." + std::to_string(layer) + ".";
    layers_.push_back({norm(file, name + "norm1"), norm(file, name + "norm2"),
                       linear(file, name + "qkv", s.width, 3 * s.width),
                       linear(file, name + "out", s.width, s.width),
                       linear(file, name + "fc1", s.width, s.inner),
                       linear(file, name + "fc2", s.inner, s.width)});
  }
  last_ = norm(file, "norm");
  attend_ = linear(file, "attend", s.width, 1);
  score1_ = linear(file, "score1", 2 * s.width + whole, s.score_hidden);
  score2_ = linear(file, "score2", s.score_hidden, s.aspects);
  word1_ = linear(file, "word1", 2 * s.width + kWordScalars, s.word_hidden);
  word2_ = linear(file, "word2", s.word_hidden, 1);
  one_ = linear(file, "one", s.width, 1);
  // What a head takes off for each phone in between; the first one sees all alike.
  slopes_.push_back(0);
  for (int k = 1; k < s.heads; ++k) {
    slopes_.push_back(static_cast<float>(2 * std::pow(4.0, k + 1 - s.heads)));
  }
}

// One standardised row a phone.
Table Judge::inputs(const Described& described, const Segments& segments) const {
  const int count = segments.phones();
  Table centred = described.frames;
  for (int p = 0; p < count; ++p) {
    for (int i = 0; i < centred.cols; ++i) centred[p][i] -= frames_mean_[i];
  }
  const Table pictured = times(frames_directions_, centred);
  Table rows(count, static_cast<int>(input_.mean.size()));
  for (int p = 0; p < count; ++p) {
    float* to = rows[p];
    const auto put = [&](const Table& from, int row) {
      to = std::copy_n(from[row], from.cols, to);
    };
    put(described.phones, p);
    put(described.posteriors, p);
    put(pictured, p);
    put(described.words, segments.sounds.owners[p]);
    for (int i = 0; i < rows.cols; ++i) {
      rows[p][i] = standard(rows[p][i], input_.mean[i], input_.scale[i]);
    }
  }
  return rows;
}

// What each head attends of the rows' values, one head's beside the other's.
void Judge::attend(const Table& qkv, Table& to) const {
  const int width = shape_.width, depth = width / shape_.heads, count = qkv.rows;
  const float root = std::sqrt(static_cast<float>(depth));
  std::vector<float> share(count);
  for (int head = 0; head < shape_.heads; ++head) {
    for (int i = 0; i < count; ++i) {
      const float* const q = qkv[i] + head * depth;
      for (int j = 0; j < count; ++j) {
        const float* const k = qkv[j] + width + head * depth;
        float sum = 0;
        for (int d = 0; d < depth; ++d) sum += q[d] * k[d];
        share[j] = sum / root - slopes_[head] * static_cast<float>(std::abs(i - j));
      }
      softmax(share.data(), count);
      float* const mixed = to[i] + head * depth;
      std::fill_n(mixed, depth, 0.0f);
      for (int j = 0; j < count; ++j) {
        const float* const v = qkv[j] + 2 * width + head * depth;
        for (int d = 0; d < depth; ++d) mixed[d] += share[j] * v[d];
      }
    }
  }
}

// The hidden rows of some phones that see each other.
void Judge::see(int seed, const Table& rows, const Segments& segments,
                const std::vector<float>& whole, Span block, Table& to) const {
  const int count = block.frames(), width = shape_.width;
  const std::size_t at = static_cast<std::size_t>(seed) * width;
  Table some(count, rows.cols), one(1, static_cast<int>(whole.size()));
  std::copy_n(rows[block.first], some.values.size(), some.values.data());
  one.values = whole;
  Table h = first_.run(seed, some);
  const Table context = context_.run(seed, one);
  for (int p = 0; p < count; ++p) {
    const int phone_class = segments.sounds.classes[block.first + p];
    const float* const phone =
        phone_.data() + (static_cast<std::size_t>(seed) * kClasses + phone_class) * width;
    for (int i = 0; i < width; ++i) h[p][i] += phone[i] + context[0][i];
  }
  const auto add_to = [&](const Table& more) {
    for (std::size_t i = 0; i < h.values.size(); ++i) h.values[i] += more.values[i];
  };
  Table mixed(count, width);
  for (const Layer& layer : layers_) {
    const auto normal = [&](const Norm& norm) {
      return normalised(h, norm.weight.data() + at, norm.bias.data() + at);
    };
    attend(layer.qkv.run(seed, normal(layer.norm1)), mixed);
    add_to(layer.out.run(seed, mixed));
    Table x = layer.fc1.run(seed, normal(layer.norm2));
    for (float& value : x.values) value = silu(value);
    add_to(layer.fc2.run(seed, x));
  }
  h = normalised(h, last_.weight.data() + at, last_.bias.data() + at);
  std::copy(h.values.begin(), h.values.end(), to[block.first]);
}

std::vector<double> Judge::whole_scores(const std::vector<Table>& seen,
                                        const std::vector<float>& whole) const {
  std::vector<double> scores(shape_.aspects);
  for (int seed = 0; seed < shape_.seeds; ++seed) {
    const Table& h = seen[seed];
    Table share = attend_.run(seed, h);
    softmax(share.values.data(), h.rows);
    Table row(1, 2 * h.cols + static_cast<int>(whole.size()));
    for (int i = 0; i < h.cols; ++i) {
      double mean = 0, attended = 0;
      for (int p = 0; p < h.rows; ++p) {
        mean += h[p][i];
        attended += double{share.values[p]} * h[p][i];
      }
      row[0][i] = static_cast<float>(mean / h.rows);
      row[0][h.cols + i] = static_cast<float>(attended);
    }
    std::copy(whole.begin(), whole.end(), row[0] + 2 * h.cols);
    Table hidden = score1_.run(seed, row);
    for (float& value : hidden.values) value = silu(value);
    const Table found = score2_.run(seed, hidden);
    for (int a = 0; a < shape_.aspects; ++a) scores[a] += found[0][a];
  }
  for (int a = 0; a < shape_.aspects; ++a) {
    scores[a] = scores[a] / shape_.seeds * scores_.scale[a] + scores_.mean[a];
  }
  return scores;
}

std::vector<float> Judge::word_scores(const std::vector<Table>& seen, const Described& described,
                                      const Segments& segments) const {
  const int words = segments.words(), width = shape_.width;
  std::vector<double> sums(words);
  for (int seed = 0; seed < shape_.seeds; ++seed) {
    const Table& h = seen[seed];
    Table rows(words, 2 * width + kWordScalars);
    for (int w = 0; w < words; ++w) {
      const int first = segments.starts[w], end = segments.starts[w + 1];
      for (int i = 0; i < width; ++i) {
        double sum = 0;
        float peak = h[first][i];
        for (int p = first; p < end; ++p) {
          sum += h[p][i];
          peak = std::max(peak, h[p][i]);
        }
        rows[w][i] = static_cast<float>(sum / (end - first));
        rows[w][width + i] = peak;
      }
      for (int i = 0; i < kWordScalars; ++i) {
        rows[w][2 * width + i] = standard(described.words[w][i], words_.mean[i], words_.scale[i]);
      }
    }
    Table x = word1_.run(seed, rows);
    for (float& value : x.values) value = silu(value);
    const Table found = word2_.run(seed, x);
    for (int w = 0; w < words; ++w) sums[w] += found.values[w];
  }
  std::vector<float> scores;
  for (const double sum : sums) {
    scores.push_back(
        static_cast<float>(sum / shape_.seeds * word_scores_.scale[0] + word_scores_.mean[0]));
  }
  return scores;
}

Judged Judge::run(const Described& described, const Segments& segments,
                  const std::vector<double>& moments, long frames,
                  const std::vector<Span>& blocks) const {
  const std::size_t half = moments.size() / 2;
  std::vector<float> place(kReadingNumbers);
  for (int i = 0; i < kReadingNumbers; ++i) {
    place[i] = standard(described.reading[i], reading_.mean[i], reading_.scale[i]);
  }
  Table profile(1, static_cast<int>(moments.size()));
  for (std::size_t i = 0; i < half; ++i) {
    const double mean = moments[i] / static_cast<double>(frames);
    const double square = moments[half + i] / static_cast<double>(frames);
    const auto sd = static_cast<float>(std::sqrt(std::max(square - mean * mean, kEpsilon)));
    profile.values[i] = standard(static_cast<float>(mean), pooled_.mean[i], pooled_.scale[i]);
    profile.values[half + i] = standard(sd, pooled_.mean[half + i], pooled_.scale[half + i]);
  }
  const Table pooled = times(pooled_directions_, profile);
  std::vector<float> whole = place;
  for (int i = 0; i < shape_.net_pooled; ++i) whole.push_back(pooled[0][i] * net_pooled_[i]);

  const Table rows = inputs(described, segments);
  std::vector<Table> seen(shape_.seeds, Table(segments.phones(), shape_.width));
  std::vector<float> phones(segments.phones());
  for (int seed = 0; seed < shape_.seeds; ++seed) {
    for (const Span block : blocks) see(seed, rows, segments, whole, block, seen[seed]);
    const Table found = one_.run(seed, seen[seed]);
    for (std::size_t p = 0; p < phones.size(); ++p) {
      phones[p] += found.values[p] / static_cast<float>(shape_.seeds);
    }
  }
  for (float& value : phones) value = value * phone_scores_.scale[0] + phone_scores_.mean[0];

  for (int i = 0; i < kReadingNumbers; ++i) place[i] *= kernel_reading_[i];
  for (int i = 0; i < shape_.pooled; ++i) place.push_back(pooled[0][i] * kernel_pooled_[i]);
  // Large weights of either sign: they cancel in double.
  std::vector<double> kernel(kernel_mean_.begin(), kernel_mean_.end());
  for (int centre = 0; centre < shape_.centres; ++centre) {
    const float* const at =
        kernel_centres_.data() + static_cast<std::size_t>(centre) * place.size();
    double far = 0;
    for (std::size_t i = 0; i < place.size(); ++i) {
      const float away = at[i] - place[i];
      far += double{away * away};
    }
    const double near = std::exp(-far);
    for (int a = 0; a < shape_.aspects; ++a) {
      kernel[a] += near * kernel_weights_[static_cast<std::size_t>(centre) * shape_.aspects + a];
    }
  }
  std::vector<float> scores;
  const std::vector<double> net = whole_scores(seen, whole);
  for (int a = 0; a < shape_.aspects; ++a) {
    scores.push_back(static_cast<float>(blend_[a] * net[a] + (1 - blend_[a]) * kernel[a]));
  }
  return {scores, word_scores(seen, described, segments), phones};
}

}  // namespace asa
