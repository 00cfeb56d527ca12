// Reading the weights is what this costs: each is read once, four rows at a time, and nothing of
// their size is written.
#include "asa/head.h"

#include <math.h>

#include "rows.h"

namespace asa::ASA_ISA {
namespace {

struct SquaredDistance {
  static ASA_INLINE vf of(vf w, vf x) { return (w - x) * (w - x); }
  static ASA_INLINE float of(float w, float x) { return (w - x) * (w - x); }
};

template <class Op>
void sum_all(const float* w, const float* x, int in, int out, float* y) {
  int o = 0;
  for (; o + 4 <= out; o += 4) sum_rows<Op, 4>(w + size_t(o) * in, x, in, y + o);
  for (; o < out; ++o) sum_rows<Op, 1>(w + size_t(o) * in, x, in, y + o);
}

void linear(const float* w, const float* bias, const float* x, int in, int out, float* y) {
  sum_all<Product>(w, x, in, out, y);
  for (int o = 0; o < out; ++o) y[o] += bias[o];
}

void gelu_all(float* x, int n) {
  for (int i = 0; i < n; ++i) x[i] = float(x[i] / 2 * (1 + erf(x[i] * 0.70710678118654752)));
}

void norm(const double* x, int width, const float* weight, const float* bias, float* to) {
  double mean = 0, variance = 0;
  for (int i = 0; i < width; ++i) mean += x[i];
  mean /= width;
  for (int i = 0; i < width; ++i) variance += (x[i] - mean) * (x[i] - mean);
  const double inverse = 1 / sqrt(variance / width + 1e-5);
  for (int i = 0; i < width; ++i) to[i] = float((x[i] - mean) * inverse * weight[i] + bias[i]);
}

double deviation(double mean, double square) {
  const double variance = square - mean * mean;
  return sqrt(variance > kVarianceFloor ? variance : kVarianceFloor);
}

void softmax(float* x, int n) {
  double top = x[0], total = 0;
  for (int i = 1; i < n; ++i) top = x[i] > top ? x[i] : top;
  for (int i = 0; i < n; ++i) total += exp(x[i] - top);
  for (int i = 0; i < n; ++i) x[i] = float(exp(x[i] - top) / total);
}

void regress(const HeadShape& s, const HeadWeights& w, const float* sums, double count,
             double duration, float* scratch, float* scores) {
  float* profile = scratch;
  float* place = profile + 2 * s.sums();
  float* near = place + s.place + 1;
  for (int i = 0; i < s.sums(); ++i) {
    const double mean = sums[i] / count;
    profile[i] = float(mean);
    profile[s.sums() + i] = float(deviation(mean, sums[s.sums() + i] / count));
  }
  linear(w.kernel_projection, w.kernel_bias, profile, 2 * s.sums(), s.place, place);
  place[s.place] = float(duration * w.kernel_duration[0]);
  sum_all<SquaredDistance>(w.kernel_centres, place, s.place + 1, s.centres, near);
  for (int c = 0; c < s.centres; ++c) near[c] = expf(-near[c]);
  for (int a = 0; a < s.aspects; ++a) {
    double score = w.kernel_mean[a];
    for (int c = 0; c < s.centres; ++c) {
      score += double(w.kernel_weights[size_t(a) * s.centres + c]) * near[c];
    }
    scores[a] = float(w.blend[a] * double(scores[a]) + (1.0 - w.blend[a]) * score);
  }
}

void run(const HeadShape& s, const HeadWeights& w, const float* stats, double* scratch,
         float* scores, float* prior) {
  const double count = stats[0];
  const float* total = stats + 1;
  const float* squares = total + s.width;
  const float* attention = squares + s.width;
  const float* weighted = attention + s.heads;
  double* part = scratch;
  float* features = (float*)(part + s.width);
  float* hidden = features + s.features();

  for (int i = 0; i < s.width; ++i) part[i] = total[i] / count;
  norm(part, s.width, w.prior_norm_weight, w.prior_norm_bias, features);
  linear(w.prior_fc1_weight, w.prior_fc1_bias, features, s.width, s.prior_width, hidden);
  gelu_all(hidden, s.prior_width);
  linear(w.prior_fc2_weight, w.prior_fc2_bias, hidden, s.prior_width, s.levels, prior);
  softmax(prior, s.levels);

  for (int p = 0; p < 2 + s.heads; ++p) {
    for (int i = 0; i < s.width; ++i) {
      if (p == 0) {
        part[i] = total[i] / count;
      } else if (p == 1) {
        part[i] = deviation(total[i] / count, squares[i] / count);
      } else {
        part[i] = double(weighted[size_t(p - 2) * s.width + i]) / attention[p - 2];
      }
    }
    const size_t at = size_t(p) * s.width;
    norm(part, s.width, w.pool_norm_weight + at, w.pool_norm_bias + at, features + at);
  }
  linear(w.prior_projector_weight, w.prior_projector_bias, prior, s.levels, s.embedding,
         features + s.pooled());
  double duration = log(count / kReferenceFrames) / kLogFramesScale;
  duration = duration < kLogFramesLow ? kLogFramesLow : duration;
  duration = duration > kLogFramesHigh ? kLogFramesHigh : duration;
  features[s.features() - 1] = float(duration);
  linear(w.fc1_weight, w.fc1_bias, features, s.features(), s.hidden, hidden);
  gelu_all(hidden, s.hidden);
  linear(w.fc2_weight, w.fc2_bias, hidden, s.hidden, s.aspects, scores);
  for (int a = 0; a < s.aspects; ++a) scores[a] = w.score_mean[a] + w.score_std[a] * scores[a];
  if (s.centres) {
    const float* sums = weighted + size_t(s.heads) * s.width;
    const int used = s.prior_width > s.hidden ? s.prior_width : s.hidden;
    regress(s, w, sums, count, duration, hidden + used, scores);
  }
}

}  // namespace

HeadKernels head_kernels() { return {.run = run}; }

}  // namespace asa::ASA_ISA
