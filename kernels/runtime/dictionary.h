// The packed pronouncing dictionary; asa_engine/text/dictionary.py has its layout.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "phones.h"

namespace asa {

class Dictionary {
 public:
  // Throws FileError. A block is looked at when a word of it is first asked for.
  explicit Dictionary(std::string_view packed);

  // A word's pronunciations, the first one first; none if it is unknown. Throws FileError.
  std::vector<Pronunciation> find(std::string_view word) const;
  bool has(std::string_view word) const { return !find(word).empty(); }

 private:
  struct Block {
    std::string first;  // its first word
    std::string packed;
  };
  std::vector<Block> blocks_;
};

}  // namespace asa
