// As asa_engine/text/readings.py does it, without the rules that digits call for.
#include "spoken_text.h"

#include <algorithm>
#include <unordered_set>

#include "cursor.h"

namespace asa {
namespace {

constexpr std::size_t kMostWords = 1500, kMostLetters = 40, kMostGuessed = 500;
constexpr std::string_view kSilent = " .,;:!?\"'()[]{}-_*/";
constexpr std::string_view kOpens = "@/0123456789:+-_";  // may make a word more than a plain one
constexpr const char* kNeedsRules =
    "which this library does not read; write the words that are read for it";

bool is_one_of(char c, std::string_view set) { return set.find(c) != std::string_view::npos; }
bool is_alnum(char c) { return is_letter(c) || (c >= '0' && c <= '9'); }
bool all_upper(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_upper);
}

// As Python has it: capitals begin runs of letters, small ones go on, and there is a letter.
bool is_title(std::string_view text) {
  bool inside = false;
  for (const char c : text) {
    if (is_letter(c) && is_upper(c) == inside) return false;
    inside = is_letter(c);
  }
  return std::any_of(text.begin(), text.end(), is_letter);
}

bool is_small(std::string_view text) {
  return std::none_of(text.begin(), text.end(), is_upper) &&
         std::any_of(text.begin(), text.end(), is_lower);
}

// Letters, and apostrophes between letters; or one apostrophe and letters.
std::size_t word_end(std::string_view text, std::size_t at) {
  const auto letters = [&](std::size_t from) {
    while (from < text.size() && is_letter(text[from])) ++from;
    return from;
  };
  if (text[at] == '\'') {
    const std::size_t end = letters(at + 1);
    return end > at + 1 ? end : at;
  }
  std::size_t end = letters(at);
  while (end > at && end + 1 < text.size() && text[end] == '\'' && is_letter(text[end + 1])) {
    end = letters(end + 1);
  }
  return end;
}

// The value of a Roman numeral of I, V, X, L and C, written as it should be; 0 of anything else.
int roman(std::string_view written) {
  const auto value = [](char c) {
    return c == 'I' ? 1 : c == 'V' ? 5 : c == 'X' ? 10 : c == 'L' ? 50 : c == 'C' ? 100 : 0;
  };
  int total = 0;
  for (std::size_t i = 0; i < written.size(); ++i) {
    int most = 0;
    for (std::size_t j = i + 1; j < written.size(); ++j) most = std::max(most, value(written[j]));
    if (!value(written[i])) return 0;
    total += value(written[i]) < most ? -value(written[i]) : value(written[i]);
  }
  const std::pair<const char*, int> marks[] = {{"C", 100}, {"XC", 90}, {"L", 50},
                                               {"XL", 40}, {"X", 10},  {"IX", 9},
                                               {"V", 5},   {"IV", 4},  {"I", 1}};
  std::string right;
  int left = total;
  for (const auto& [mark, worth] : marks) {
    for (; left >= worth; left -= worth) right += mark;
  }
  return right == written ? total : 0;
}

// Whether capitals can be said as a word: two or more runs of up to two consonants and one or two
// vowels, and a consonant at most behind them.
bool is_sayable(std::string_view rest, int runs = 0) {
  const auto is_vowel = [](char c) { return is_one_of(c, "AEIOU"); };
  if (runs >= 2 && (rest.empty() || (rest.size() == 1 && !is_vowel(rest[0])))) return true;
  for (std::size_t consonants = 0; consonants <= 2; ++consonants) {
    if (consonants && (rest.size() < consonants || is_vowel(rest[consonants - 1]))) return false;
    for (std::size_t vowels = 1; vowels <= 2; ++vowels) {
      const std::size_t taken = consonants + vowels;
      if (taken > rest.size() || !is_vowel(rest[taken - 1])) break;
      if (is_sayable(rest.substr(taken), runs + 1)) return true;
    }
  }
  return false;
}

std::vector<std::string> split(std::string_view said) {
  std::vector<std::string> words;
  std::string word;
  for (const char c : lowered(said) + " ") {
    if (c != ' ' && c != '-') {
      word += c;
    } else if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  }
  return words;
}

std::string_view word_before(std::string_view text, std::size_t at) {
  while (at && text[at - 1] == ' ') --at;
  std::size_t from = at;
  while (from && text[from - 1] != ' ') --from;
  return text.substr(from, at - from);
}

// A capital and one small letter or more.
bool is_name(std::string_view word) {
  return word.size() > 1 && is_upper(word[0]) &&
         std::all_of(word.begin() + 1, word.end(), is_lower);
}

}  // namespace

TextReader::TextReader(std::string_view dictionary, std::string_view letters,
                       std::string_view characters, std::string_view abbreviations)
    : lexicon_(dictionary, letters), characters_(characters) {
  while (!abbreviations.empty()) {
    const std::size_t end = abbreviations.find('\n');
    need(end != std::string_view::npos, "its abbreviations are cut");
    const std::string_view line = abbreviations.substr(0, end);
    const std::size_t tab = line.find('\t', 2);
    need(line.size() > 2 && line[1] == '\t' && tab != std::string_view::npos && line[0] >= '0' &&
             line[0] < '0' + kTables,
         "its abbreviations are no table");
    const std::string_view said = line.substr(tab + 1);
    for (const char c : said) {
      need(is_lower(c) || c == ' ' || c == '\'', "its abbreviations stand for no words");
    }
    tables_[line[0] - '0'].emplace(line.substr(2, tab - 2), said);
    abbreviations.remove_prefix(end + 1);
  }
}

const std::string* TextReader::find(Table table, const std::string& word) const {
  const auto found = tables_[table].find(word);
  return found == tables_[table].end() ? nullptr : &found->second;
}

std::vector<SpokenWord> TextReader::read(std::string_view text) const {
  const PlainText plain = characters_.plain(text);
  const auto original = [&](std::size_t from, std::size_t to) {
    return text.substr(plain.starts[from], plain.ends[to - 1] - plain.starts[from]);
  };
  const std::string& written = plain.text;
  const bool shouted = std::none_of(written.begin(), written.end(), is_lower);
  std::vector<SpokenWord> words;
  std::unordered_set<std::string> guessed;
  for (std::size_t at = 0; at < written.size();) {
    const Token found = token(plain, text, at, shouted);
    if (found.end == at) {
      ++at;  // silent
      continue;
    }
    for (const std::string& spoken : found.words) {
      if (spoken.size() > kMostLetters) {
        refuse(spoken, "which is longer than any word; put spaces between the words");
      }
      Pronounced said = lexicon_.pronounce(spoken);
      if (said.is_guessed) guessed.insert(spoken);
      words.push_back({std::string(original(at, found.end)), spoken, said.pronunciations});
      if (words.size() > kMostWords) {
        throw TextError("the text has more than 1500 words; judge it paragraph by paragraph");
      }
      if (guessed.size() > kMostGuessed) {
        throw TextError(
            "the text has more than 500 words that no dictionary has; only English is read");
      }
    }
    at = found.end;
  }
  if (words.empty()) throw TextError("the text holds no word; give the text that was read");
  return words;
}

// What is read at a place: words, or none where its end is the place itself.
TextReader::Token TextReader::token(const PlainText& plain, std::string_view original,
                                    std::size_t at, bool shouted) const {
  const std::string_view text = plain.text;
  const auto refused = [&](std::size_t end) {
    refuse(original.substr(plain.starts[at], plain.ends[end - 1] - plain.starts[at]), kNeedsRules);
  };
  const std::size_t end = word_end(text, at);
  if (end == at) {
    if (text[at] == '&') return {at + 1, {"and"}};
    if (!is_one_of(text[at], kSilent)) refused(std::min(text.find(' ', at), text.size()));
    return {at, {}};
  }
  const std::string_view written = text.substr(at, end - at);
  // What may be an address, initials with full stops, or a number's: 3rd, B2, a@b.com, e.g., 5km.
  std::size_t far = end;
  while (far < text.size() && (is_alnum(text[far]) || is_one_of(text[far], "-_+"))) ++far;
  const auto at_of = [&](std::size_t i) { return i < text.size() ? text[i] : ' '; };
  const bool is_dotted = at_of(far) == '.' && is_alnum(at_of(far + 1));
  if (is_dotted || at_of(far) == '@' ||
      (end < text.size() && text[end] >= '0' && text[end] <= '9') || text.substr(end, 3) == "://") {
    std::size_t last = far;
    while (last < text.size() && text[last] != ' ') ++last;
    refused(last);
  }
  if (is_plain(written, text.substr(end, 2))) return {end, plain_word(written, shouted)};

  std::size_t letters = at;
  while (letters < text.size() && is_letter(text[letters])) ++letters;
  const std::string bare(text.substr(at, letters - at)), small = lowered(bare);
  const std::string_view before = word_before(text, at);
  const int numeral = is_one_of(at_of(letters), "'.") ? 0 : roman(bare);
  if (numeral &&
      (find(kNumbered, lowered(before)) || (bare.size() > 1 && is_name(before) && numeral <= 40))) {
    refused(letters);
  }
  const bool has_stop = at_of(letters) == '.';
  if (const std::string* said = find(kTitles, small); said && letters > at) {
    return {letters + has_stop, split(*said)};
  }
  if (has_stop && letters > at) {
    if (bare == "St" && at_of(letters + 1) == ' ') {
      return {letters + 1, {is_name(before) ? "street" : "saint"}};
    }
    const std::string* said = find(kDotted, small);
    if (!said && is_upper(bare[0])) said = find(kWeekdays, small);
    if (!said && is_name(bare) && bare.size() >= 3 && bare.size() <= 4 && is_short_month(small)) {
      said = find(kMonths, small);
    }
    if (said) return {letters + 1, split(*said)};
  }
  return {end, plain_word(written, shouted)};
}

// The table has the months' names, too, which stand for themselves.
bool TextReader::is_short_month(const std::string& small) const {
  const std::string* const said = find(kMonths, small);
  return said && *said != small;
}

// Whether no rule can apply to letters, by themselves and the two characters behind them.
bool TextReader::is_plain(std::string_view written, std::string_view after) const {
  const std::string small = lowered(written);
  const char next = after.empty() ? ' ' : after[0];
  bool ends = !is_one_of(next, kOpens);
  if (next == '.') {
    const bool closes = after.size() == 1 || is_one_of(after[1], " \")");
    ends = closes && !find(kDotted, small) && !find(kBeforeNumbers, small) &&
           !find(kWeekdays, small) && !is_short_month(small) && small != "st";
  }
  if (!ends || find(kTitles, small)) return false;
  if (is_small(written)) return true;
  const bool is_named = find(kMonths, small) || small == "v" || small == "x" || small == "l" ||
                        small == "c" || small == "i";
  return is_title(written) && !is_named;
}

// A word, or the letters of an initialism.
std::vector<std::string> TextReader::plain_word(std::string_view written, bool shouted) const {
  std::string small = lowered(written);
  if (small[0] == '\'' && !lexicon_.has(small)) {  // a quotation mark
    written.remove_prefix(1);
    small.erase(0, 1);
  }
  std::string letters = small;
  letters.erase(std::remove(letters.begin(), letters.end(), '\''), letters.end());
  if (letters.size() <= 1) return {small};
  std::string stem(without(written, "'s"));
  if (stem.size() > 2 && stem.back() == 's' && all_upper(stem.substr(0, stem.size() - 1))) {
    stem.pop_back();
  }
  const auto one_by_one = [](std::string_view of) {
    std::vector<std::string> found;
    for (const char c : lowered(of)) found.emplace_back(1, c);
    return found;
  };
  if (all_upper(stem) && !shouted && is_spelled(stem)) {
    std::vector<std::string> found = one_by_one(stem);
    if (stem != written) found.back() += "'s";
    return found;
  }
  const bool has_vowel =
      std::any_of(letters.begin(), letters.end(), [](char c) { return is_one_of(c, "aeiouy"); });
  if (!has_vowel && letters.size() <= 6 && !lexicon_.has(small) &&
      !lexicon_.has(without(small, "'s"))) {
    return one_by_one(letters);
  }
  return {small};
}

// Whether capitals are read one by one: BBC, but not NATO.
bool TextReader::is_spelled(const std::string& initials) const {
  const bool is_known = find(kSpelled, lowered(initials)) != nullptr;
  if (is_known || initials.size() > 5 || lexicon_.has(lowered(initials))) return is_known;
  return initials.size() < 4 || !is_sayable(initials);
}

}  // namespace asa
