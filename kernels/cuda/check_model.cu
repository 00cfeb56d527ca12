#include <thread>

#include "asa/isa.h"
#include "check_support.h"

namespace asa::cuda {
namespace {

struct RandomEncoder {
  EncoderShape shape;
  std::vector<std::vector<float>> held;
  StemWeights stem{};
  std::vector<LayerWeights> layers;
  const float *final_weight, *final_bias;

  explicit RandomEncoder(const EncoderShape& s) : shape(s) {
    unsigned seed = 1000;
    const auto make = [&](std::size_t rows, std::size_t columns) {
      held.push_back(noise(rows * columns, 1.0f / std::sqrt(float(columns)), seed++));
      return held.back().data();
    };
    const auto vector = [&](std::size_t count, float mean) {
      held.push_back(noise(count, 0.1f, seed++));
      for (float& value : held.back()) value += mean;
      return held.back().data();
    };
    const std::size_t d = s.width, inner = s.inner;
    stem = {make(d, 3 * s.mels), vector(d, 0), make(d, 3 * d), vector(d, 0),
            vector(d * s.positions, 0)};
    for (int i = 0; i < s.layers; ++i) {
      layers.push_back({vector(d, 1), vector(d, 0), make(d, d), vector(d, 0), make(d, d),
                        make(d, d), vector(d, 0), make(d, d), vector(d, 0), vector(d, 1),
                        vector(d, 0), make(inner, d), vector(inner, 0), make(d, inner),
                        vector(d, 0)});
    }
    final_weight = vector(d, 1);
    final_bias = vector(d, 0);
  }

  template <class Encoder>
  void give(Encoder& to) const {
    to.set_stem(stem);
    for (std::size_t i = 0; i < layers.size(); ++i) to.set_layer(int(i), layers[i]);
    to.set_final_norm(final_weight, final_bias);
  }
};

}  // namespace

// Sound to scores against the CPU's log-mel, encoder, pooling and head, all in float32; then that
// each window has the same bits alone, and that one with a NaN hurts no other.
Outcome run_model(const Check& check) {
  const EncoderShape shape =
      check.large ? EncoderShape{80, 384, 6, 1536, 4, 1500} : EncoderShape{20, 48, 3, 72, 2, 80};
  const RandomEncoder encoder(shape);
  const RandomHead head(head_shape(check.large, shape.width, shape.layers));
  const HeadShape& s = head.shape;
  std::vector<float> layer_weights;
  for (int i = 0; i <= shape.layers; ++i) layer_weights.push_back(0.1f + 0.2f * i);
  std::vector<int> sizes = {4003, 201, 16000 + 159, 320};
  if (check.large) {
    sizes.clear();
    for (int i = 0; i < 32; ++i) sizes.push_back(8000 + i * 13577 % 56000);
  }
  const std::size_t count = sizes.size(), k = s.stats();
  int all_frames = 0;
  for (int size : sizes) all_frames += (size / kHop + 1) / 2;
  Model model({shape, s}, Format(check.format), {int(count) + 1, all_frames + 70});
  encoder.give(model);
  model.set_head(head.weights, head.attention_weight.data(), head.attention_bias.data(),
                 layer_weights);
  asa::Encoder reference(shape, layer_precisions(Precision::fp32, shape.layers),
                         int(std::max(1u, std::thread::hardware_concurrency())));
  encoder.give(reference);

  std::vector<float> samples;
  Batch batch;
  batch.starts = {0};
  for (std::size_t w = 0; w < count; ++w) {
    const auto window = noise(sizes[w], 0.1f, 50 + unsigned(w));
    samples.insert(samples.end(), window.begin(), window.end());
    batch.starts.push_back(int(samples.size()));
  }
  struct Results {
    std::vector<float> stats, scores, prior, frames;
  };
  const auto run = [&](Batch b) {
    const std::size_t windows = b.starts.size() - 1;
    Results r{std::vector<float>(windows * k), std::vector<float>(windows * s.aspects),
              std::vector<float>(windows * s.levels),
              std::vector<float>(std::size_t(all_frames) * shape.width)};
    b.stats = r.stats.data();
    b.scores = r.scores.data();
    b.prior = r.prior.data();
    b.frames = r.frames.data();
    model.encode(b);
    return r;
  };
  batch.values = samples.data();
  const Results found = run(batch);

  std::vector<float> frames, moments, found_moments;
  for (std::size_t w = 0; w < count; ++w) {
    const int mel_frames = sizes[w] / kHop;
    std::vector<float> mel(std::size_t(shape.mels) * mel_frames);
    asa::log_mel(shape.mels, samples.data() + batch.starts[w], sizes[w], mel.data());
    std::vector<float> out(std::size_t((mel_frames + 1) / 2) * shape.width),
        sums(2 * std::size_t(shape.layers + 1) * shape.width);
    reference.encode({{mel.data(), mel_frames, out.data(), sums.data()}}, layer_weights);
    frames.insert(frames.end(), out.begin(), out.end());
    moments.insert(moments.end(), sums.begin(), sums.end());
    const auto* end = found.stats.data() + (w + 1) * k;
    found_moments.insert(found_moments.end(), end - sums.size(), end);
  }
  double error =
      std::max(relative_error(found.frames, frames), relative_error(found_moments, moments));

  // The head on the same statistics, whatever their error.
  std::vector<double> scratch(asa::head_scratch(s));
  std::vector<float> scores(count * s.aspects), prior(count * s.levels), again = scores,
                                                                         again_prior = prior;
  for (std::size_t w = 0; w < count; ++w) {
    kernels().head.run(s, head.weights, found.stats.data() + w * k, scratch.data(),
                       scores.data() + w * s.aspects, prior.data() + w * s.levels);
  }
  if (!(relative_error(found.scores, scores) < 1e-5)) error = kNever;
  model.score(found.stats.data(), int(count), again.data(), again_prior.data());
  if (again != found.scores || again_prior != found.prior) error = kNever;

  const auto same = [&](const std::vector<float>& one, std::size_t at,
                        const std::vector<float>& other, std::size_t other_at, std::size_t n) {
    return std::memcmp(one.data() + at * n, other.data() + other_at * n, n * sizeof(float)) == 0;
  };
  for (std::size_t w = 0; w < count; w += check.large ? 7 : 1) {
    Batch alone = batch;
    alone.values = samples.data() + batch.starts[w];
    alone.starts = {0, sizes[w]};
    const Results one = run(alone);
    if (!same(found.stats, w, one.stats, 0, k) ||
        !same(found.scores, w, one.scores, 0, s.aspects)) {
      error = kNever;
    }
  }
  const int hurt = 1;
  auto damaged = samples;
  damaged[batch.starts[hurt] + 100] = NAN;
  Batch other = batch;
  other.values = damaged.data();
  const Results beside = run(other);
  for (std::size_t w = 0; w < count; ++w) {
    const bool nan = std::isnan(beside.scores[w * s.aspects]);
    if (w == hurt ? !nan : !same(found.scores, w, beside.scores, w, s.aspects)) error = kNever;
  }
  double milliseconds = 0;
  if (check.runs) milliseconds = model.time(batch, check.runs);
  const double d = shape.width;
  const double operations =
      2.0 * all_frames *
      (6.0 * shape.mels * d + 3 * d * d + shape.layers * (4 * d * d + 2 * d * shape.inner));
  // Two layers' and the stem's roundings add up.
  return {error, 4 * rounding(check.format), milliseconds, operations, 0};
}

}  // namespace asa::cuda
