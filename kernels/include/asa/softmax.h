// Softmax row by row, and what a distribution too wide to be kept says of one of its outcomes.
#pragma once

namespace asa {

// Of one row's logits, taken part by part: all that is asked of their softmax.
struct Outcome {
  int outcome;     // the one asked about
  float logit;     // its logit, known before the first part comes
  int rank = 0;    // outcomes with a larger one
  int other = -1;  // the likeliest of all others, the first of equals ...
  float other_logit = 0.0f;
  float top = 0.0f;     // the largest logit so far
  double total = 0.0;   // sum of e^(logit - top)
  double moment = 0.0;  // sum of (logit - top) e^(logit - top)
};

struct SoftmaxKernels {
  // Replaces the first `count` scores of each row by their softmax to base 2, and those after it,
  // up to `stride`, by zeros. Writes each row's entropy in nats and its largest share.
  void (*shares)(float* scores, int stride, int rows, int count, float* entropy, float* peak);

  // Takes logits of the outcomes first .. first + count - 1.
  void (*take)(float* logits, int first, int count, Outcome& to);
};

}  // namespace asa
