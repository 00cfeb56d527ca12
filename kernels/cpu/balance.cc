#include "asa/balance.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace asa {

void balance(FeedForward& layer) {
  const std::size_t width = layer.norm_bias.size(), inner = layer.fc1_bias.size();
  std::vector<float> size(inner);
  for (std::size_t o = 0; o < inner; ++o) {
    double mean = layer.fc1_bias[o], variance = 0.0;
    for (std::size_t i = 0; i < width; ++i) {
      const double weight = layer.fc1_weight[o * width + i];
      mean += weight * layer.norm_bias[i];
      variance += std::pow(weight * layer.norm_weight[i], 2);
    }
    size[o] = static_cast<float>(mean + 3.0 * std::sqrt(variance));
  }
  std::vector<std::size_t> order(inner);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return size[a] < size[b]; });
  const std::vector<float> fc1_weight = layer.fc1_weight, fc1_bias = layer.fc1_bias;
  const std::vector<float> fc2_weight = layer.fc2_weight;
  for (std::size_t to = 0; to < inner; ++to) {
    const std::size_t from = order[to];
    layer.fc1_bias[to] = fc1_bias[from];
    std::copy_n(fc1_weight.begin() + from * width, width, layer.fc1_weight.begin() + to * width);
    for (std::size_t i = 0; i < width; ++i) {
      layer.fc2_weight[i * inner + to] = fc2_weight[i * inner + from];
    }
  }
}

}  // namespace asa
