#include "vocabulary.h"

#include <algorithm>

#include "cursor.h"
#include "lexicon.h"

namespace asa {
namespace {

constexpr std::string_view kSpace = "\xc4\xa0";  // how the byte-level alphabet writes a space
constexpr int kEnglishWithoutTimes = 50362;      // of the models that know English alone

// Where GPT-2 cuts a text of ASCII letters and marks before it looks for tokens.
std::size_t piece_end(std::string_view text, std::size_t at) {
  for (const std::string_view ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.substr(at, ending.size()) == ending) return at + ending.size();
  }
  std::size_t end = at + (text[at] == ' ' && at + 1 < text.size());
  const auto run = [&](bool letters) {
    while (end < text.size() && text[end] != ' ' && is_letter(text[end]) == letters) ++end;
    return end;
  };
  if (text[end] == ' ')
    return text.find_first_not_of(' ', at) == std::string_view::npos
               ? text.size()
               : text.find_first_not_of(' ', at);
  return run(is_letter(text[end]));
}

}  // namespace

Vocabulary::Vocabulary(std::string_view lines, int most) {
  for (std::size_t at = 0; at <= lines.size();) {
    const std::size_t end = std::min(lines.find('\n', at), lines.size());
    need(tokens_.size() < static_cast<std::size_t>(most), "its vocabulary is too large");
    tokens_.emplace_back(lines.substr(at, end - at));
    ids_[tokens_.back()] = static_cast<int>(tokens_.size()) - 1;
    at = end + 1;
  }
  const auto known = [&](std::string_view token) {
    const int id = id_of(token);
    if (id < 0) damaged("its vocabulary lacks " + std::string(token));
    return id;
  };
  end_ = known("<|endoftext|>");
  const int start = known("<|startoftranscript|>"), without_times = known("<|notimestamps|>");
  const int english = known("<|en|>"), task = known("<|transcribe|>");
  prompt_ = {start};
  if (without_times > kEnglishWithoutTimes) prompt_.insert(prompt_.end(), {english, task});
  prompt_.push_back(without_times);
  known(kSpace);
  for (const char c : std::string_view("'.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")) {
    known(std::string_view(&c, 1));
  }
}

int Vocabulary::id_of(std::string_view token) const {
  const auto found = ids_.find(std::string(token));
  return found == ids_.end() ? -1 : found->second;
}

std::vector<int> Vocabulary::encode(std::string_view text) const {
  std::vector<int> ids;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = piece_end(text, at);
    join(text.substr(at, end - at), ids);
    at = end;
  }
  return ids;
}

void Vocabulary::join(std::string_view piece, std::vector<int>& ids) const {
  std::vector<std::string> parts;
  for (const char c : piece) parts.emplace_back(c == ' ' ? kSpace : std::string_view(&c, 1));
  for (;;) {
    int least = end_;
    std::size_t where = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const int id = id_of(parts[i] + parts[i + 1]);
      if (id < 0 || id >= least) continue;
      least = id;
      where = i;
    }
    if (least == end_) break;
    parts[where] += parts[where + 1];
    parts.erase(parts.begin() + where + 1);
  }
  for (const std::string& part : parts) ids.push_back(id_of(part));
}

std::string Vocabulary::plain(int token) const {
  if (token < 0 || token >= end_ || token >= static_cast<int>(tokens_.size())) return {};
  std::string text;
  for (std::string_view rest = tokens_[token]; !rest.empty();) {
    const bool is_space = rest.substr(0, kSpace.size()) == kSpace;
    if (!is_space && static_cast<unsigned char>(rest[0]) >= 0x80) return {};
    text += is_space ? ' ' : rest[0];
    rest.remove_prefix(is_space ? kSpace.size() : 1);
  }
  return lowered(stripped(text, ' '));
}

}  // namespace asa
