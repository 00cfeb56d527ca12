// The weights of a network as one block of packed words: packed here, or adopted from who did it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "asa/buffer.h"
#include "asa/linear.h"

namespace asa {

// Hands out places in a block, each at the beginning of a cache line; without one, counts.
class WeightLayout {
 public:
  // For panels of so many outputs.
  WeightLayout(std::int32_t* words, int panel) : words_(words), panel_(panel) {}

  std::int32_t* take(std::size_t count);
  float* floats(std::size_t count) { return reinterpret_cast<float*>(take(count)); }
  void place(Linear& to, Precision precision, int in, int out);
  std::size_t used() const { return used_; }

 private:
  std::int32_t* words_;
  int panel_;
  std::size_t used_ = 0;
};

class PackedWeights {
 public:
  struct Packed {
    const std::int32_t* words;
    std::size_t count;
  };

  // All weights as packed, which another network of the same shape, precisions and instruction set
  // can adopt. Throws std::logic_error if some are not set.
  Packed packed() const;
  std::size_t packed_words() const { return packed_words_; }

  // Takes weights packed earlier in place of set_*; they must outlive the network. Throws
  // std::invalid_argument unless they are as many as it needs and aligned to a cache line,
  // std::logic_error if weights have been set.
  void adopt(const Packed& packed);

 protected:
  // What stands in messages, as in "the encoder's weights".
  explicit PackedWeights(const char* network) : network_(network) {}
  ~PackedWeights() = default;

  // Points every weight into `words`, if not null; returns how many there must be.
  virtual std::size_t lay_out(std::int32_t* words) = 0;
  virtual bool all_set() const = 0;
  virtual void consider_set() = 0;

  // To be called once the shape is known.
  void count_words() { packed_words_ = lay_out(nullptr); }
  // Before a weight is set.
  void make_room();

 private:
  const char* network_;
  Buffer weights_;                        // what the weights point into, unless adopted
  const std::int32_t* packed_ = nullptr;  // its beginning, or that of what was adopted
  std::size_t packed_words_ = 0;
};

}  // namespace asa
