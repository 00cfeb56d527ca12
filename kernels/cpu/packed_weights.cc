#include "asa/packed_weights.h"

#include <stdexcept>
#include <string>

namespace asa {
namespace {

constexpr std::size_t kLineWords = 16;  // of a cache line

}  // namespace

std::int32_t* WeightLayout::take(std::size_t count) {
  std::int32_t* at = words_ ? words_ + used_ : nullptr;
  used_ += (count + kLineWords - 1) / kLineWords * kLineWords;
  return at;
}

void WeightLayout::place(Linear& to, Precision precision, int in, int out) {
  to = {.precision = precision, .in = in, .out = round_up(out, panel_)};
  to.panels = take(static_cast<std::size_t>(words_of(precision, in)) * to.out);
  to.bias = floats(to.out);
  if (!is_scaled(precision)) return;
  const std::size_t groups = groups_of(in);
  to.scale = floats(groups * to.out);
  if (precision == Precision::int8) to.sum = floats(groups * to.out);
}

void PackedWeights::make_room() {
  if (packed_) return;
  weights_ = Buffer(packed_words_);
  packed_ = weights_.ints();
  lay_out(weights_.ints());
}

PackedWeights::Packed PackedWeights::packed() const {
  if (!all_set()) {
    throw std::logic_error(std::string("the ") + network_ + "'s weights are not all set");
  }
  return {packed_, packed_words_};
}

void PackedWeights::adopt(const Packed& packed) {
  if (packed_) throw std::logic_error(std::string("the ") + network_ + "'s weights have been set");
  if (packed.count != packed_words_ ||
      reinterpret_cast<std::uintptr_t>(packed.words) % (sizeof(float) * kLineWords)) {
    throw std::invalid_argument(std::string("not the packed weights of this ") + network_);
  }
  packed_ = packed.words;
  lay_out(const_cast<std::int32_t*>(packed.words));  // only set_* write there
  consider_set();
}

}  // namespace asa
