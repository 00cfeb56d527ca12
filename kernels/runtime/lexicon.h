// How words are pronounced: the dictionary, what English does to its words, then the letters.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dictionary.h"
#include "letters.h"

namespace asa {

struct Pronounced {
  std::vector<Pronunciation> pronunciations;  // the likeliest first, at least one
  bool is_guessed = false;                    // from the letters
};

class Lexicon {
 public:
  // Throws FileError.
  Lexicon(std::string_view dictionary, std::string_view letters)
      : dictionary_(dictionary), letters_(letters) {}

  // Of small letters and apostrophes, at least one letter; as asa_engine/text/pronounce.py.
  Pronounced pronounce(const std::string& word) const;

  bool has(std::string_view word) const { return dictionary_.has(word); }

 private:
  std::vector<Pronunciation> known(const std::string& word) const;

  Dictionary dictionary_;
  LetterModel letters_;
};

// Small and capital ASCII letters, whatever the program's locale.
constexpr bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
constexpr bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
constexpr bool is_letter(char c) { return is_lower(c) || is_upper(c); }
std::string lowered(std::string_view text);

// Without a character at both ends, or without an ending that may be there.
std::string_view stripped(std::string_view text, char end);
std::string_view without(std::string_view text, std::string_view ending);

}  // namespace asa
