// A ragged batch's frames to scores in one launch: attention pooling of each window over its own
// frames, the acoustic prior, and the head over what the recording has given so far.
#pragma once

#include <cstddef>

#include "asa/cuda/ragged.h"
#include "asa/head.h"
#include "asa/linear.h"

namespace asa::cuda {

// Floats that pooling sums over a strip of frames: all of the statistics but count and moments.
inline constexpr int pooled_sums(const HeadShape& s) { return s.stats() - 1 - 2 * s.sums(); }

// Floats of scratch for one window.
std::size_t head_scratch_floats(const HeadShape& shape);

struct PoolHead {
  HeadShape shape;
  // In the GPU's memory; matrices' rows, and what is as long as they are, padded with zeros to a
  // multiple of 4 floats.
  HeadWeights weights;
  const float* attention_weight;  // [heads][width]
  const float* attention_bias;    // [heads]
  const float* frames;            // [rows][stride]
  int stride;
  float* stats;        // [windows][shape.stats()]; moments are there already
  const double* sums;  // [windows][shape.stats()] of the recordings' earlier windows
  const int* summed;   // whether they count
  float* partial;      // [strip_room][pooled_sums()]
  unsigned* arrived;   // [windows], zero before and after
  float* scratch;      // [windows][head_scratch_floats()]
  float* scores;       // [windows][aspects]
  float* prior;        // [windows][levels]
};

// Sums are float32, strip by strip in order; the head's are as on the CPU: products in float32,
// means, variances, norms and sums of scores in float64.
void pool_and_score(Stream& stream, const PoolHead& head, const Ragged& ragged);

// Scores of statistics that are there already; nothing of pooling is used.
void score(Stream& stream, const PoolHead& head, int windows);

}  // namespace asa::cuda
