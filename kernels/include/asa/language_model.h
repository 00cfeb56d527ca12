// A causal language model over the packed kernels: RMSNorm, rotary positions, grouped-query
// attention and a gated feed-forward layer, as Llama, Qwen2 and Phi-3 have them. Embeddings in,
// hidden states out; keys and values stay where they were written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "asa/buffer.h"
#include "asa/isa.h"
#include "asa/packed_weights.h"
#include "asa/thread_pool.h"

namespace asa {

struct LanguageModelShape {
  int width, layers;
  int heads, kv_heads, head_width;  // kv_heads divides heads
  int inner;                        // of the feed-forward layer
  int rotated;                      // leading channels of a head that are turned, an even number
  int positions;                    // that the tables of angles cover
  float epsilon;                    // of the norms
};

// A linear layer as its file has it, [out][in]: float32, or steps of 8 bits, of which kGroup inputs
// of an output share a scale, [out][groups]. The bias may be null.
struct Matrix {
  const float* weight = nullptr;
  const std::int8_t* steps = nullptr;
  const float* scale = nullptr;
  const float* bias = nullptr;
};

struct LanguageLayerWeights {
  const float *norm1, *norm2;  // [width]
  Matrix q, k, v, o, gate, up, down;
};

class LanguageModel;

// Keys and values of one sequence, from its first position on. The model must outlive it.
class Past {
 public:
  // Room for so many positions, which takes memory as it is filled. Throws std::invalid_argument
  // unless there are 1 to the model's positions of them.
  Past(const LanguageModel& model, int capacity);

  const LanguageModel& model() const { return model_; }
  int capacity() const { return capacity_; }
  int length() const { return length_; }

  // Forgets the positions from `length` on. Throws std::invalid_argument if there are fewer.
  void rewind(int length);

  // Becomes the first `length` positions of another sequence of the same model. Throws
  // std::invalid_argument for another model's, or for more than there are or is room for.
  void begin_like(const Past& other, int length);

  // Keys, already turned, then values, [2][layers][kv_heads][count][head_width]; all that are
  // there, or all there will be. Throws std::invalid_argument for more than there is room for.
  void read(float* state) const;
  void write(const float* state, int count);

 private:
  friend class LanguageModel;
  float* key(int layer, int head, int position) const;    // its channels are a panel apart
  float* value(int layer, int head, int position) const;  // its panels are room_ panels apart

  const LanguageModel& model_;
  int capacity_, room_, length_ = 0;
  Buffer keys_;    // [layers][kv_heads][room / panel][padded head][panel]
  Buffer values_;  // [layers][kv_heads][padded head / panel][room][panel]
};

// What follows a sequence: `count` rows [count][width], and where the hidden states of the last
// `wanted` of them go, [wanted][width], after the closing norm.
struct Extension {
  Past* past;
  const float* embeddings;
  int count;
  int wanted;
  float* hidden;
};

class LanguageModel final : public PackedWeights {
 public:
  // Precision::int8 has all linear layers in 8 bits. Attention, norms and the residual stream are
  // in float32 whatever the precision. Throws std::invalid_argument for an impossible shape or
  // thread count.
  LanguageModel(const LanguageModelShape& shape, Precision precision, int threads,
                const Kernels& kernels = asa::kernels());

  const LanguageModelShape& shape() const { return shape_; }
  int threads() const { return pool_.threads(); }

  // Throws std::logic_error out of order, std::invalid_argument where the precision wants other
  // numbers: int8 takes either kind, the others float32 only.
  void set_layer(int layer, const LanguageLayerWeights& w);

  // The closing norm, and cosines and sines of the angles, [positions][rotated / 2].
  void set_closing(const float* norm, const float* cosines, const float* sines);

  // Runs what follows each of some sequences, all in one pass over the weights. A row's result is
  // the same, bit for bit, however its sequence is cut into calls, for any number of threads and
  // whatever else is in the batch. Calls from several threads take turns. Throws
  // std::invalid_argument for more rows than a sequence has room for, another model's sequence or
  // one that is there twice, std::logic_error if weights are missing.
  void extend(const std::vector<Extension>& batch);

 private:
  friend class Past;
  struct Layer {
    Linear qkv, o, gated, down;  // `gated` has panels of gate and up in turn
    float *norm1 = nullptr, *norm2 = nullptr;
  };
  // Rows of one sequence within a pass: read at `row`, written at `to`.
  struct Segment {
    Past* past;
    int row, to, count, position, wanted;
    float* hidden;
  };
  struct Piece {
    int segment, first, count;
  };
  struct Scratch {
    Buffer query, packed_query, attended, staging;
  };

  std::size_t lay_out(std::int32_t* words) override;
  void consider_set() override;
  template <class Pick>
  void pack(const Linear& to, int inputs, Pick pick) const;
  bool all_set() const override { return closing_set_ && layers_set_ == shape_.layers; }
  int head_outputs() const { return shape_.heads * shape_.head_width; }
  Rows input(const Linear& next) const;

  void run(std::vector<Segment>& segments, int rows);
  void cut(const std::vector<Segment>& segments, int times);
  void normalise(const float* norm, const Linear& next, int rows);
  template <class Work>
  void by_columns(int out, int step, Work work);
  void project(const Layer& layer, int rows);
  void keep(int layer, const std::vector<Segment>& segments);
  int narrow(std::vector<Segment>& segments);
  void attend(int layer, const std::vector<Segment>& segments);
  void attend_tile(int layer, const Segment& segment, const Piece& piece, int kv_head,
                   Scratch& scratch) const;
  void mix(const Layer& layer, int rows);

  LanguageModelShape shape_;
  Precision precision_;
  const Kernels& kernels_;
  ThreadPool pool_;
  std::mutex mutex_;
  int stride_;        // floats of a row of the residual stream
  int mixed_stride_;  // of what the heads attended
  int padded_head_;   // in whole panels
  int most_rows_;     // of a pass
  int layers_set_ = 0;
  bool closing_set_ = false;

  std::vector<Layer> layers_;
  float *closing_ = nullptr, *cosines_ = nullptr, *sines_ = nullptr;

  int room_ = 0;  // rows that there is room for
  std::vector<Scratch> scratch_;
  std::vector<Piece> pieces_;
  Buffer residual_, projected_, mixed_;
  Buffer input_, input_scale_, hidden_, hidden_scale_;  // packed rows
};

}  // namespace asa
