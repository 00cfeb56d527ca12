#include "asa/softmax.h"

#include <math.h>

#include "rows.h"

namespace asa::ASA_ISA {
namespace {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;
constexpr float kLowest = -3.4e38f;

// The largest of `count` numbers.
ASA_INLINE float largest(const float* x, int count) {
  vf top = splat(kLowest);
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) top = max(top, load(x + i));
  float all = highest(top);
  for (; i < count; ++i) all = x[i] > all ? x[i] : all;
  return all;
}

// Sums of w = 2^(scale (x - top)) and of scale (x - top) w; `put` takes the weights. What is left
// of a vector weighs nothing.
template <class Put>
ASA_INLINE void weigh(const float* x, int count, float top, float scale, float& total,
                      float& moment, Put put) {
  vf sum_of = splat(0.0f), moment_of = splat(0.0f);
  for (int i = 0; i < count; i += kLanes) {
    vf away;
    if (i + kLanes <= count) {
      away = (load(x + i) - top) * scale;
    } else {
      float rest[kLanes];
      for (int j = 0; j < kLanes; ++j) rest[j] = i + j < count ? (x[i + j] - top) * scale : -200.0f;
      away = load(rest);
    }
    const vf weight = exp2<false>(away);
    sum_of += weight;
    moment_of += away * weight;
    put(i, weight);
  }
  total = sum(sum_of);
  moment = sum(moment_of);
}

void shares(float* scores, int stride, int rows, int count, float* entropy, float* peak) {
  for (int row = 0; row < rows; ++row, scores += stride) {
    float total, moment;
    weigh(scores, count, largest(scores, count), 1.0f, total, moment, [&](int i, vf weight) {
      if (i + kLanes <= count) {
        store(scores + i, weight);
      } else {
        for (int j = 0; i + j < count; ++j) scores[i + j] = weight[j];
      }
    });
    const float inverse = 1.0f / total;
    for (int i = 0; i < count; ++i) scores[i] *= inverse;
    for (int i = count; i < stride; ++i) scores[i] = 0.0f;
    entropy[row] = logf(total) - kLn2 * moment * inverse;
    peak[row] = inverse;
  }
}

void take(float* logits, int first, int count, Outcome& to) {
  const int own = to.outcome - first;
  const bool is_here = own >= 0 && own < count;
  const float kept = is_here ? logits[own] : 0.0f;
  if (is_here) logits[own] = kLowest;
  const float best = largest(logits, count);
  if (to.other < 0 || best > to.other_logit) {
    int at = 0;
    while (at < count - 1 && logits[at] != best) ++at;
    if (!(is_here && at == own)) {
      to.other = first + at;
      to.other_logit = best;
    }
  }
  if (is_here) logits[own] = kept;
  const float part_top = is_here && kept > best ? kept : best;
  if (to.total == 0.0) {
    to.top = part_top;
  } else if (part_top > to.top) {
    const double down = double(to.top) - part_top, factor = exp(down);
    to.moment = (to.moment + to.total * down) * factor;
    to.total *= factor;
    to.top = part_top;
  }
  vi larger = vi{};
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) larger -= load(logits + i) > to.logit;
  for (int j = 0; j < kLanes; ++j) to.rank += larger[j];
  for (; i < count; ++i) to.rank += logits[i] > to.logit;
  float total, moment;
  weigh(logits, count, to.top, kLog2E, total, moment, [](int, vf) {});
  to.total += total;
  to.moment += double(moment) * kLn2;
}

}  // namespace

SoftmaxKernels softmax_kernels() { return {.shares = shares, .take = take}; }

}  // namespace asa::ASA_ISA
