// Whisper's text decoder over the packed kernels, one token at a time, one thread.
#pragma once

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

// Precision::int8 keeps the decoder's matrices and the projection to tokens in int8; keys and
// values of the speech, which every token reads, in bfloat16 where the CPU has it and in float32
// elsewhere.
class Decoder {
 public:
  // Throws std::invalid_argument for an impossible shape or precision.
  Decoder(const DecoderShape& shape, Precision precision);

  const DecoderShape& shape() const { return shape_; }
  int frames() const { return frames_; }
  int length() const { return length_; }

  // The projection to tokens is their embeddings'.
  void set_embeddings(const float* tokens, const float* positions);
  void set_layer(int layer, const DecoderLayerWeights& w);
  void set_final_norm(const float* weight, const float* bias);

  // Takes speech to be decoded, [count][width], and forgets what was decoded before.
  void start(const float* frames, int count);

  // Runs the next token. Writes the logits of the one after it, [tokens], and, if not null, what
  // each head attended, [layers][heads][frames]. Throws std::invalid_argument for a token that is
  // none, std::logic_error where no speech was given or there is no position left.
  void step(int token, float* logits, float* attended);

 private:
  struct PackedLinear : Linear {
    Buffer panel_buffer, bias_buffer, scale_buffer, sum_buffer;
  };
  struct Norm {
    Buffer weight, bias;
  };
  struct Layer {
    Norm norm1, norm2, norm3;
    PackedLinear qkv, o, cross_q, cross_k, cross_v, cross_o, fc1, fc2;
    Buffer past_keys, past_values;      // [width][positions], [positions][width]
    Buffer speech_keys, speech_values;  // as Attention has them
  };

  void pack(PackedLinear& to, Precision precision, const float* weight, const float* bias, int in,
            int out) const;
  Norm norm(const float* weight, const float* bias) const;
  Rows rows(const Linear& next) const;
  void normalise(const Norm& norm, const Linear& next);
  void embed(int token);
  void attend_past(const Layer& layer);
  void attend_speech(const Layer& layer, float* attended);

  DecoderShape shape_;
  const Kernels& kernels_;
  Precision dense_, inner_;  // of what attends to speech; of all other matrices
  int stride_;               // floats of a row, padded for the packing
  int head_width_;           // padded to whole panels
  int layers_set_ = 0;
  bool embeddings_set_ = false, final_set_ = false;
  int frames_ = 0, key_panels_ = 0, length_ = 0;

  PackedLinear tokens_;
  Buffer positions_;
  Norm final_;
  std::vector<Layer> layers_;
  Buffer speech_, speech_input_;  // frames, padded and packed
  Buffer zeros_;                  // biases of products with the keys and values
  Buffer state_, mixed_, context_, scores_, logits_, staging_;
  Buffer input_, input_scale_, hidden_, hidden_scale_;  // packed rows
};

}  // namespace asa
