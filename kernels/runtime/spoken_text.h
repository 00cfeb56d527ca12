// A text as it is read aloud: its words, and how they sound.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lexicon.h"
#include "plain_text.h"

namespace asa {

struct SpokenWord {
  std::string text;    // as written
  std::string spoken;  // small letters and apostrophes
  std::vector<Pronunciation> pronunciations;
};

// Reads texts of words: letters with or without accents, apostrophes, hyphens, punctuation, titles
// and other abbreviations, initials, "&". Digits, currencies, addresses and other symbols need the
// rules of asa_engine/text, which are Python: they are refused by name.
class TextReader {
 public:
  // Throws FileError.
  TextReader(std::string_view dictionary, std::string_view letters, std::string_view characters,
             std::string_view abbreviations);

  // At most 1,500 words, at least one. Throws TextError.
  std::vector<SpokenWord> read(std::string_view text) const;

 private:
  // What abbreviations stand for; asa_engine/text/abbreviations.py has them.
  enum Table { kTitles, kDotted, kWeekdays, kMonths, kNumbered, kSpelled, kBeforeNumbers, kTables };
  struct Token {
    std::size_t end;
    std::vector<std::string> words;
  };

  const std::string* find(Table table, const std::string& word) const;
  Token token(const PlainText& plain, std::string_view original, std::size_t at,
              bool shouted) const;
  bool is_short_month(const std::string& small) const;
  bool is_plain(std::string_view written, std::string_view after) const;
  std::vector<std::string> plain_word(std::string_view written, bool shouted) const;
  bool is_spelled(const std::string& initials) const;

  Lexicon lexicon_;
  Characters characters_;
  std::array<std::unordered_map<std::string, std::string>, kTables> tables_;
};

}  // namespace asa
