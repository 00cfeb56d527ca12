// Whisper's text decoder over the packed kernels, one token at a time or a whole text at once, one
// thread.
#pragma once

#include <cstdint>
#include <vector>

#include "asa/buffer.h"
#include "asa/isa.h"

namespace asa {

struct DecoderShape {
  int width, heads, inner, layers, tokens, positions;
};

// Weights as CTranslate2 has them, row-major, float32; kv holds keys, then values.
struct DecoderLayerWeights {
  const float *norm1_weight, *norm1_bias;
  const float *qkv_weight, *qkv_bias, *o_weight, *o_bias;
  const float *norm2_weight, *norm2_bias;
  const float *cross_q_weight, *cross_q_bias, *cross_kv_weight, *cross_kv_bias;
  const float *cross_o_weight, *cross_o_bias;
  const float *norm3_weight, *norm3_bias;
  const float *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias;
};

// What the decoder says of a text that it is made to write, a row for each token that is judged.
struct Forced {
  float* own;               // [rows] log-probability of the token
  float* best;              // [rows] that of the likeliest other; -infinity where there is none
  std::int32_t* other;      // [rows] which that is, -1 where there is none
  std::int32_t* rank;       // [rows] tokens that are likelier than the one judged
  float* entropy;           // [rows] of the distribution, nats
  float* attended;          // [rows][frames] mean of what the chosen heads attended
  float* attended_entropy;  // [rows] mean over all heads of the entropy of what they attended, nats
  float* attended_peak;     // [rows] mean over all heads of their largest share
  float* states;            // [rows][width] after the closing LayerNorm
};

// Precision::int8 keeps the decoder's matrices and the projection to tokens in int8; keys and
// values of the speech, which every token reads, in bfloat16 where the CPU has it and in float32
// elsewhere.
class Decoder {
 public:
  // Throws std::invalid_argument for an impossible shape or precision.
  Decoder(const DecoderShape& shape, Precision precision, const Kernels& kernels = asa::kernels());

  const DecoderShape& shape() const { return shape_; }
  int frames() const { return frames_; }
  int length() const { return length_; }

  // The projection to tokens is their embeddings'. These are set in order, `count` tokens from
  // `first` on, all but the last in multiples of kTokens: of many only a few are ever in float32.
  static constexpr int kTokens = 1024;
  void set_tokens(int first, const float* embeddings, int count);
  void set_positions(const float* positions);
  void set_layer(int layer, const DecoderLayerWeights& w);
  void set_final_norm(const float* weight, const float* bias);

  // Takes speech to be decoded, [count][width], and forgets what was decoded before. Where it
  // begins with the frames it was last given, their keys and values are kept: what is heard piece
  // by piece costs no more than heard at once, and gives the same bits.
  void start(const float* frames, int count);

  // Runs the next token. Writes the logits of the one after it, [tokens], and, if not null, what
  // each head attended, [layers][heads][frames]. Throws std::invalid_argument for a token that is
  // none, std::logic_error where no speech was given or there is no position left.
  void step(int token, float* logits, float* attended);

  // Runs all tokens but the last at once, from the first position on, and judges those from the
  // `prompt`-th on, tokens.size() - prompt rows. `heads` are those whose attention is wanted,
  // layer * heads + head. What was decoded before is forgotten. Throws std::invalid_argument for a
  // token or head that is none, fewer than one judged token or more than there are positions,
  // std::logic_error where no speech was given.
  void force(const std::vector<int>& tokens, int prompt, const std::vector<int>& heads,
             const Forced& out);

 private:
  struct PackedLinear : Linear {
    Buffer panel_buffer, bias_buffer, scale_buffer, sum_buffer;
  };
  struct Norm {
    Buffer weight, bias;
  };
  struct Layer {
    Norm norm1, norm2, norm3;
    PackedLinear q, k, v, o, cross_q, cross_k, cross_v, cross_o, fc1, fc2;
    Buffer past_keys, past_values;      // [width][positions], [positions][width]
    Buffer speech_keys, speech_values;  // as Attention has them, with room for room_ keys
  };

  void make(PackedLinear& to, Precision precision, int in, int out) const;
  void fill(const Linear& to, const float* weight, const float* bias, int out) const;
  void pack(PackedLinear& to, Precision precision, const float* weight, const float* bias, int in,
            int out) const;
  Norm norm(const float* weight, const float* bias) const;
  void make_room(int rows);
  int all() const { return shape_.heads * head_width_; }
  Rows rows(const Linear& next) const;
  void normalise(const Norm& norm, const Linear& next, int first, int count);
  void embed(int token, int position, float* to) const;
  void attend_past(const Layer& layer);
  void attend_text(const Layer& layer, int count);
  template <class Seen>
  void attend_speech(const Layer& layer, int count, Seen seen);
  template <class Past, class Seen>
  void run_layers(int count, int padded, Past past, Seen seen);
  void judge(const int* tokens, int count, const Forced& out);

  DecoderShape shape_;
  const Kernels& kernels_;
  Precision dense_, inner_;  // of what attends to speech; of all other matrices
  int stride_;               // floats of a row, padded for the packing
  int head_width_;           // padded to whole panels
  int layers_set_ = 0, tokens_set_ = 0;
  bool positions_set_ = false, final_set_ = false;
  int frames_ = 0, room_ = 0, length_ = 0;
  int rows_ = 0, row_keys_ = 0;  // what there is room for: rows of a pass, and keys they attend

  PackedLinear tokens_;
  Buffer positions_;
  Norm final_;
  std::vector<Layer> layers_;
  Buffer speech_, speech_input_;  // frames, padded; those that are new, packed
  Buffer zeros_;                  // biases of products with the keys and values
  Buffer state_, mixed_, context_, scores_, logits_, staging_, spread_;
  Buffer input_, input_scale_, hidden_, hidden_scale_;  // packed rows
  Buffer text_queries_, text_keys_, text_values_;       // of one layer, as Attention has them
};

}  // namespace asa
