// Whisper's audio encoder over the packed kernels: any size, any length, unequal lengths at once.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "asa/buffer.h"
#include "asa/isa.h"
#include "asa/laps.h"
#include "asa/packed_weights.h"
#include "asa/thread_pool.h"

namespace asa {

constexpr int kKernel = 3;  // width of both convolutions

struct EncoderShape {
  int mels, width, heads, inner, layers, positions;
};

// Weights as Whisper's checkpoints have them, row-major, float32.
struct StemWeights {
  const float *conv1_weight, *conv1_bias;  // [width][mels][3]
  const float *conv2_weight, *conv2_bias;  // [width][width][3]
  const float* positions;                  // [positions][width]
};
struct LayerWeights {
  const float *norm1_weight, *norm1_bias;
  const float *q_weight, *q_bias, *k_weight, *v_weight, *v_bias, *o_weight, *o_bias;
  const float *norm2_weight, *norm2_bias;
  const float *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias;
};

struct Sequence {
  const float* mel;  // [mels][mel_frames]
  int mel_frames;
  float* out;                // [frames()][sets of weights][width]
  float* moments = nullptr;  // [2][layers + 1][width]: sums, then sums of squares, of each h_l

  int frames() const { return (mel_frames + 1) / 2; }
};

// What the whole encoder's precision is layer by layer. Precision::int8 spares the first layer, in
// which errors begin that make single frames fail later: it is as the projections of int8 layers
// are.
std::vector<Precision> layer_precisions(Precision precision, int layers,
                                        const Kernels& kernels = asa::kernels());

// A layer of Precision::int8 keeps its feed-forward layers in int8, and where the CPU has dot
// products of bytes the scores of attention, and the rest in bfloat16 where the CPU has it, float32
// elsewhere: quantising the projections of attention too would double the error. The convolutions
// are as the first layer's projections. The first layer's output projection is in float32, unless
// the first layer is int8.
class Encoder final : public PackedWeights {
 public:
  // Takes a precision for each layer. Throws std::invalid_argument for an impossible shape, number
  // of precisions or thread count.
  Encoder(const EncoderShape& shape, const std::vector<Precision>& layers, int threads,
          const Kernels& kernels = asa::kernels());

  const EncoderShape& shape() const { return shape_; }
  int threads() const { return pool_.threads(); }

  void set_stem(const StemWeights& w);
  void set_layer(int layer, const LayerWeights& w);
  void set_final_norm(const float* weight, const float* bias);

  // out = sum over l of layer_weights[l] h_l, h_0 the embedded input, h_l the output of layer l,
  // the last one after the final LayerNorm; of several sets of weights, one behind the other, the
  // sums stand side by side in a row. A sequence's result is the same, bit for bit, for any
  // number of threads and whatever else is in the batch. Where a sequence has room for moments,
  // the sums over its frames of h_l and of h_l squared are written there. Calls from several
  // threads take turns. Throws std::invalid_argument for lengths the positions do not reach,
  // std::logic_error if weights are missing.
  void encode(const std::vector<Sequence>& batch, const std::vector<float>& layer_weights);

  // Keeps what each task and kernel does from now on, or no longer; off, it costs a look at a null
  // pointer a kernel.
  void record(bool on);

  // What was kept since the last call, thread by thread.
  std::vector<Lap> take_laps();

 private:
  struct Layer {
    Precision dense = Precision::fp32;  // of attention and its projections
    Precision inner = Precision::fp32;  // of the feed-forward layers
    Precision scores = Precision::fp32;
    Linear q, k, v, o, fc1, fc2;
    float *norm1_weight = nullptr, *norm1_bias = nullptr;
    float *norm2_weight = nullptr, *norm2_bias = nullptr;
  };
  struct Scratch {
    Buffer mel, conv, input, input_scale, context, hidden, hidden_scale, staging;
    std::unique_ptr<Laps> laps;
  };
  struct Block {
    int sequence, first_tile, tiles;
  };
  struct Column {
    int index, of;
  };

  std::size_t lay_out(std::int32_t* words) override;
  void consider_set() override;
  void pack(const Linear& to, const float* weight, const float* bias, int out) const;
  void copy(float* to, const float* from) const;
  bool all_set() const override { return stem_set_ && final_set_ && layers_set_ == shape_.layers; }
  void plan(const std::vector<Sequence>& batch);
  Attention attention(int sequence, int layer, int frames) const;
  Rows rows(Scratch& scratch, const Linear& next) const;
  static int valid_rows(const Sequence& sequence, const Block& block, int tile_rows);
  void mark(Scratch& scratch, Step step, int layer, const Linear& linear, int rows, int in,
            int out) const;
  void mark(Scratch& scratch, Step step, int layer, double operations, double floats) const;

  void run_stem(const Sequence& sequence, const Block& block, Scratch& scratch);
  void run_layer(int layer, const Sequence& sequence, const Block& block, Scratch& scratch);
  void project(int layer, const Sequence& sequence, const Block& block, Scratch& scratch);
  void mix(int layer, const Sequence& sequence, const Block& block, float weight, Column column,
           Scratch& scratch);
  void sum_moments(int layer, const Sequence& sequence, int first_tile);

  EncoderShape shape_;
  const Kernels& kernels_;
  ThreadPool pool_;
  std::mutex mutex_;
  int stride_;      // floats a row of the residual stream
  int head_width_;  // padded to whole panels
  int most_tiles_;  // in a block
  // Room for a tile's queries. A block overwrites its own with the next layer's while others still
  // read theirs, so it is the widest layer's, and no tile moves from layer to layer.
  int query_words_ = 0;
  int layers_set_ = 0;
  bool stem_set_ = false, final_set_ = false;

  Linear conv1_, conv2_;
  float *positions_ = nullptr, *final_weight_ = nullptr, *final_bias_ = nullptr;
  std::vector<Layer> layers_;

  std::vector<Scratch> scratch_;  // one a thread
  std::vector<Block> blocks_;
  std::vector<int> first_tile_;   // of each sequence
  std::vector<int> first_panel_;  // of each sequence's keys
  Buffer residual_, queries_, keys_[2], values_[2];
  Buffer query_scale_, key_scale_[2], value_scale_[2];
  Buffer last_;  // h_L of one sequence, for its moments
};

}  // namespace asa
