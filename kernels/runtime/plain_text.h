// Characters of a text as plain ones, each with its place in the original.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace asa {

// A text that cannot be read aloud; what() is one line that says what to do.
struct TextError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws the TextError that names what stands at a place of a text, and why it is not read.
[[noreturn]] void refuse(std::string_view what, const char* why);

struct PlainText {
  // ASCII; a symbol that is read in words of its own is kSymbol.
  static constexpr char kSymbol = '\1';

  std::string text;
  std::vector<std::size_t> starts;  // where each begins in the original, in bytes
  std::vector<std::size_t> ends;
};

// What characters beyond ASCII are read as, a table that the grader file brings along.
class Characters {
 public:
  // Throws FileError.
  explicit Characters(std::string_view table);

  // A text of UTF-8 in plain characters: accents are dropped, quotes and hyphens made one of a
  // kind. Throws TextError for what cannot be read.
  PlainText plain(std::string_view text) const;

 private:
  enum class Kind : std::uint8_t { other = 0, letter = 1, mark = 2 };
  struct Entry {
    std::uint32_t code;
    Kind kind;
    std::string plain;
  };
  const Entry* find(std::uint32_t code) const;

  std::vector<Entry> entries_;
};

}  // namespace asa
