// The order of a feed-forward layer's inner units that eight bits carry with the least error.
#pragma once

#include <vector>

namespace asa {

// A LayerNorm and the two linear layers after it: fc2 gelu(fc1 (norm x)).
struct FeedForward {
  std::vector<float> norm_weight, norm_bias;  // [width]
  std::vector<float> fc1_weight, fc1_bias;    // [inner][width], [inner]
  std::vector<float> fc2_weight;              // [width][inner]
};

// Sorts the inner units by how large they grow: mean + 3 deviations of what enters the GELU, were
// the norm's outputs independent and normal. A group shares one scale, so that its largest unit
// decides the error of all: units alike are better company. The layer computes the same.
void balance(FeedForward& layer);

}  // namespace asa
