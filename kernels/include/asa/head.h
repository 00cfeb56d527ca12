// The grader's head in one pass: a window's sums to its prior and its scores.
#pragma once

#include <cstddef>

namespace asa {

inline constexpr double kVarianceFloor = 1e-5;
inline constexpr double kReferenceFrames = 175.0;
inline constexpr double kLogFramesScale = 0.5;
inline constexpr double kLogFramesLow = -2.0, kLogFramesHigh = 3.5;

struct HeadShape {
  int width, heads;             // of a frame; of attention pooling
  int prior_width, levels;      // of the prior's hidden layer; its outcomes
  int embedding, hidden;        // of the prior in the features; of the head's hidden layer
  int aspects;                  // scores
  int outputs, place, centres;  // kernel regressor: layers that are summed, its space; 0: none

  constexpr int pooled() const { return (2 + heads) * width; }
  constexpr int features() const { return pooled() + embedding + 1; }
  constexpr int sums() const { return outputs * width; }
  constexpr int stats() const { return 1 + 2 * width + heads * (1 + width) + 2 * sums(); }
};

// Row-major float32, [out][in], as the checkpoint has them.
struct HeadWeights {
  const float *prior_norm_weight, *prior_norm_bias;            // [width]
  const float *prior_fc1_weight, *prior_fc1_bias;              // [prior_width][width]
  const float *prior_fc2_weight, *prior_fc2_bias;              // [levels][prior_width]
  const float *prior_projector_weight, *prior_projector_bias;  // [embedding][levels]
  const float *pool_norm_weight, *pool_norm_bias;              // [2 + heads][width]
  const float *fc1_weight, *fc1_bias;                          // [hidden][features]
  const float *fc2_weight, *fc2_bias;                          // [aspects][hidden]
  const float *score_mean, *score_std;                         // [aspects]
  // The network's share of a score, [aspects], and what follows for the rest of it.
  const float* blend;
  const float *kernel_projection, *kernel_bias;  // [place][2 sums], [place]
  const float* kernel_duration;                  // [1]
  const float* kernel_centres;                   // [centres][place + 1]
  const float *kernel_weights, *kernel_mean;     // [aspects][centres], [aspects]
};

// Doubles of scratch that one run needs.
inline std::size_t head_scratch(const HeadShape& s) {
  return std::size_t(s.width) + s.features() + s.prior_width + s.hidden +
         2 * std::size_t(s.sums()) + s.place + 1 + s.centres;
}

struct HeadKernels {
  // stats: the sums that pooling gives, and those of the layers' outputs where there is a kernel
  // regressor. Products in float32; means, variances, norms and sums of scores in float64.
  void (*run)(const HeadShape& shape, const HeadWeights& weights, const float* stats,
              double* scratch, float* scores, float* prior);
};

}  // namespace asa
