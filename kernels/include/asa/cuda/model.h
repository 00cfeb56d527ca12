// A grader on the GPU: sound or log-mel in, scores out, for ragged batches of windows.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "asa/cuda/machine.h"
#include "asa/cuda/ragged.h"
#include "asa/encoder.h"
#include "asa/head.h"
#include "asa/log_mel.h"

namespace asa::cuda {

struct ModelShape {
  EncoderShape encoder;
  HeadShape head;
};

// The largest batch; memory is taken for it once.
struct Limits {
  int windows, frames;  // frames: of the encoder, over all windows
};

// Windows end to end; what is null is not wanted or, among the inputs, not there.
struct Batch {
  const float* values = nullptr;  // samples, or log-mel frames [n][mels]
  bool mels = false;
  std::vector<int> starts;       // [windows + 1], of samples or log-mel frames
  const double* sums = nullptr;  // [windows][stats] of the recordings' earlier windows
  float* stats = nullptr;        // [windows][stats]
  float* scores = nullptr;       // [windows][aspects]
  float* prior = nullptr;        // [windows][levels]
  float* frames = nullptr;       // [frames of all windows][width]
};

// One workspace, one stream, and one CUDA graph for each bucket of batch shapes, captured when a
// second batch falls into it. A window's results are the same bits whatever else is in the batch; a
// window with a number that is not finite has NaN for results, and no other.
class Model {
 public:
  // Throws std::invalid_argument for a shape that no kernel takes.
  static std::size_t need_bytes(const ModelShape& shape, const Limits& limits);

  // Throws std::invalid_argument as above, Unavailable without a GPU, std::runtime_error where its
  // memory does not suffice.
  Model(const ModelShape& shape, Format format, const Limits& limits);
  ~Model();

  // Weights as checkpoints have them; each is copied.
  void set_stem(const StemWeights& w);
  void set_layer(int layer, const LayerWeights& w);
  void set_final_norm(const float* weight, const float* bias);
  // attention_weight [heads][width], attention_bias [heads]; layer_weights [layers + 1]: frames are
  // the sum over l of layer_weights[l] h_l.
  void set_head(const HeadWeights& w, const float* attention_weight, const float* attention_bias,
                const std::vector<float>& layer_weights);

  const ModelShape& shape() const;
  const Limits& limits() const;

  // One thread at a time. Throws std::invalid_argument for a batch beyond the limits,
  // std::logic_error where weights are missing, std::runtime_error where the GPU fails.
  void encode(const Batch& batch);

  // Scores of summed statistics [count][stats], any count.
  void score(const float* stats, int count, float* scores, float* prior);

  // Milliseconds of the GPU's time that the batch's graph takes, without copies; the smallest of
  // `runs`. After encode() of the same batch.
  float time(const Batch& batch, int runs);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace asa::cuda
