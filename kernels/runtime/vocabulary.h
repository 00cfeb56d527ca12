// Whisper's tokens: a text in them, and theirs as text.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace asa {

class Vocabulary {
 public:
  // A token a line, as vocabulary.txt has them. Throws FileError for one that is no Whisper's, or
  // of more than `most` tokens.
  Vocabulary(std::string_view lines, int most);

  // What decoding starts with: English, transcribed, without time marks.
  const std::vector<int>& prompt() const { return prompt_; }
  // The first id that is no text.
  int end() const { return end_; }

  // The tokens of words in ASCII, byte pair by byte pair, the lowest id first.
  std::vector<int> encode(std::string_view text) const;

  // A token without spaces around it, in small letters; empty where it is not ASCII.
  std::string plain(int token) const;

 private:
  int id_of(std::string_view token) const;  // -1 of none
  void join(std::string_view piece, std::vector<int>& ids) const;

  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int> ids_;
  std::vector<int> prompt_;
  int end_ = 0;
};

}  // namespace asa
