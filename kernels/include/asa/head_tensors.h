// The head's tensors in the order in which they are handed over. Not for kernels: it uses std.
#pragma once

#include <cstddef>
#include <vector>

#include "asa/head.h"

namespace asa {

struct HeadTensor {
  const char* name;   // in a checkpoint
  std::size_t count;  // of its elements
  const float* HeadWeights::* place;
};

// The last seven only where there is a kernel regressor.
inline std::vector<HeadTensor> head_tensors(const HeadShape& s) {
  const std::size_t width = s.width, prior = s.prior_width, levels = s.levels;
  const std::size_t embedding = s.embedding, hidden = s.hidden, aspects = s.aspects;
  const std::size_t pooled = s.pooled(), place = s.place, centres = s.centres;
  using W = HeadWeights;
  std::vector<HeadTensor> tensors = {
      {"prior_norm.weight", width, &W::prior_norm_weight},
      {"prior_norm.bias", width, &W::prior_norm_bias},
      {"prior_fc1.weight", prior * width, &W::prior_fc1_weight},
      {"prior_fc1.bias", prior, &W::prior_fc1_bias},
      {"prior_fc2.weight", levels * prior, &W::prior_fc2_weight},
      {"prior_fc2.bias", levels, &W::prior_fc2_bias},
      {"prior_projector.weight", embedding * levels, &W::prior_projector_weight},
      {"prior_projector.bias", embedding, &W::prior_projector_bias},
      {"pool_norms.weight", pooled, &W::pool_norm_weight},
      {"pool_norms.bias", pooled, &W::pool_norm_bias},
      {"head_fc1.weight", hidden * s.features(), &W::fc1_weight},
      {"head_fc1.bias", hidden, &W::fc1_bias},
      {"head_fc2.weight", aspects * hidden, &W::fc2_weight},
      {"head_fc2.bias", aspects, &W::fc2_bias},
      {"score_mean", aspects, &W::score_mean},
      {"score_std", aspects, &W::score_std}};
  if (centres) {
    tensors.push_back({"blend", aspects, &W::blend});
    tensors.push_back({"kernel_projection", place * 2 * s.sums(), &W::kernel_projection});
    tensors.push_back({"kernel_bias", place, &W::kernel_bias});
    tensors.push_back({"kernel_duration", 1, &W::kernel_duration});
    tensors.push_back({"kernel_centres", centres * (place + 1), &W::kernel_centres});
    tensors.push_back({"kernel_weights", aspects * centres, &W::kernel_weights});
    tensors.push_back({"kernel_mean", aspects, &W::kernel_mean});
  }
  return tensors;
}

}  // namespace asa
