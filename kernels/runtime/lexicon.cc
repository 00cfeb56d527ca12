#include "lexicon.h"

#include <algorithm>

#include "cursor.h"

namespace asa {
namespace {

constexpr double kLeastProbability = 0.05;  // of a further guess that is kept

// British spellings and the American ones that the dictionary may have instead: what is replaced,
// by what, and before what, where $ is the word's end.
struct Spelling {
  std::string_view british, american;
  std::vector<std::string_view> before;
};

const std::vector<Spelling>& spellings() {
  static const std::vector<Spelling> all = {
      {"our", "or", {"$", "ed$", "ing$", "s$", "ite", "able", "ful", "less", "ly$", "er"}},
      {"is", "iz", {"e$", "es$", "ed$", "ing$", "er$", "ers$", "ation", "able$"}},
      {"ys", "yz", {"e$", "es$", "ed$", "ing$", "er$"}},
      {"re", "er", {"$", "s$"}},
      {"ll", "l", {"ed$", "ing$", "er$", "ers$", "or$", "ous$"}},
      {"l", "ll", {"ment", "ful$", "fil$"}},
      {"ogue", "og", {"$", "s$"}},
      {"ence", "ense", {"$", "s$"}},
      {"ae", "e", {""}},
      {"mme", "m", {"$", "s$"}}};
  return all;
}

bool goes_on(std::string_view rest, std::string_view how) {
  if (how.empty() || how.back() != '$') return rest.substr(0, how.size()) == how;
  return rest == how.substr(0, how.size() - 1);
}

// A word with a spelling changed everywhere; the same where there is nothing to change.
std::string american(std::string_view word, const Spelling& spelling) {
  std::string found;
  for (std::size_t at = 0; at < word.size();) {
    const std::string_view rest = word.substr(at);
    const bool is_oe = spelling.british == "ae" && rest.substr(0, 2) == "oe";
    const bool is_here = is_oe || rest.substr(0, spelling.british.size()) == spelling.british;
    const std::string_view after = is_here ? rest.substr(spelling.british.size()) : rest;
    if (is_here && std::any_of(spelling.before.begin(), spelling.before.end(),
                               [&](std::string_view how) { return goes_on(after, how); })) {
      found += spelling.american;
      at += spelling.british.size();
    } else {
      found += word[at++];
    }
  }
  return found;
}

bool is_one_of(int symbol, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(),
                     [&](const char* name) { return symbol_name(symbol) == name; });
}

// With the sound of an added s: horses, cats, dogs.
void add_s(Pronunciation& said) {
  if (is_one_of(said.back(), {"S", "Z", "SH", "ZH", "CH", "JH"})) {
    said.push_back(symbol_named("AH0"));
    said.push_back(symbol_named("Z"));
  } else {
    said.push_back(symbol_named(is_one_of(said.back(), {"P", "T", "K", "F", "TH"}) ? "S" : "Z"));
  }
}

}  // namespace

std::string lowered(std::string_view text) {
  std::string found(text);
  for (char& c : found) c = is_upper(c) ? static_cast<char>(c - 'A' + 'a') : c;
  return found;
}

std::string_view stripped(std::string_view text, char end) {
  while (!text.empty() && text.front() == end) text.remove_prefix(1);
  while (!text.empty() && text.back() == end) text.remove_suffix(1);
  return text;
}

std::string_view without(std::string_view text, std::string_view ending) {
  const bool has =
      text.size() >= ending.size() && text.substr(text.size() - ending.size()) == ending;
  return has ? text.substr(0, text.size() - ending.size()) : text;
}

std::vector<Pronunciation> Lexicon::known(const std::string& word) const {
  auto found = dictionary_.find(word);
  const std::string_view bare = stripped(word, '\'');
  if (found.empty() && bare != word) found = dictionary_.find(bare);
  for (const Spelling& spelling : spellings()) {
    if (!found.empty()) break;
    const std::string other = american(word, spelling);
    if (other != word) found = dictionary_.find(other);
  }
  return found;
}

Pronounced Lexicon::pronounce(const std::string& word) const {
  auto found = known(word);
  if (!found.empty()) return {found};
  const std::string stem(without(stripped(word, '\''), "'s"));
  if (stem != word) found = known(stem);
  if (!found.empty()) {
    for (Pronunciation& said : found) add_s(said);
    return {found};
  }
  for (const auto& guess : letters_.guess(stripped(word, '\''))) {
    if (found.empty() || guess.probability >= kLeastProbability) found.push_back(guess.phones);
  }
  for (const Pronunciation& said : found) {
    need(!said.empty(), "its letter model has no sound for a word");
  }
  return {found, true};
}

}  // namespace asa
