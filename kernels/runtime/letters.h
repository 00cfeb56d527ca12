// How a word is likely to sound that no dictionary has; asa_engine/text/letters.py has the model's
// layout and says where it is from.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "phones.h"

namespace asa {

class LetterModel {
 public:
  struct Guess {
    Pronunciation phones;
    double probability;
  };

  // Throws FileError.
  explicit LetterModel(std::string_view packed);

  // At most four likely pronunciations of small letters and apostrophes, the likeliest first, at
  // least one; of letters that the model has no sound for, an empty one.
  std::vector<Guess> guess(std::string_view word) const;

 private:
  struct Level {
    std::vector<std::uint64_t> keys;  // ascending: units, one byte each, the last one lowest
    std::vector<std::uint8_t> log_p, log_backoff;

    // Where a key is, or keys.size().
    std::size_t find(std::uint64_t key) const;
  };
  struct Way {
    std::uint64_t history = 0;
    double score = 0;
    std::vector<std::uint8_t> units;
  };

  double log_p(std::uint64_t history, std::uint8_t unit, std::size_t known) const;
  std::vector<Guess> merge(const std::vector<Way>& ways) const;

  std::vector<Pronunciation> sounds_;  // of each unit; of unit 0, none
  std::array<std::vector<std::uint8_t>, 256> of_letter_;
  std::vector<Level> levels_;
};

}  // namespace asa
