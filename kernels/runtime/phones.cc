#include "phones.h"

#include <stdexcept>

namespace asa {
namespace {

struct Named {
  const char *name, *ipa;
  bool is_vowel = false;
};

constexpr Named kNamed[kPhones] = {
    {"AA", "ɑ", true},  {"AE", "æ", true},  {"AH", "ʌ", true}, {"AO", "ɔ", true},
    {"AW", "aʊ", true}, {"AY", "aɪ", true}, {"B", "b"},        {"CH", "tʃ"},
    {"D", "d"},         {"DH", "ð"},        {"EH", "ɛ", true}, {"ER", "ɝ", true},
    {"EY", "eɪ", true}, {"F", "f"},         {"G", "ɡ"},        {"HH", "h"},
    {"IH", "ɪ", true},  {"IY", "i", true},  {"JH", "dʒ"},      {"K", "k"},
    {"L", "l"},         {"M", "m"},         {"N", "n"},        {"NG", "ŋ"},
    {"OW", "oʊ", true}, {"OY", "ɔɪ", true}, {"P", "p"},        {"R", "ɹ"},
    {"S", "s"},         {"SH", "ʃ"},        {"T", "t"},        {"TH", "θ"},
    {"UH", "ʊ", true},  {"UW", "u", true},  {"V", "v"},        {"W", "w"},
    {"Y", "j"},         {"Z", "z"},         {"ZH", "ʒ"}};

struct Symbol {
  std::string name, ipa;
  int phone_class, stress;
};

struct Tables {
  std::vector<Symbol> symbols;
  std::vector<std::string> classes = {""};

  Tables() {
    for (int phone = 0; phone < kPhones; ++phone) {
      const Named& named = kNamed[phone];
      const std::string name = named.name;
      classes.push_back(name);
      for (int stress = 0; stress < (named.is_vowel ? 3 : 1); ++stress) {
        // Unstressed AH and ER are reduced.
        const bool is_reduced = named.is_vowel && stress == 0;
        const char* const ipa = is_reduced && name == "AH"   ? "ə"
                                : is_reduced && name == "ER" ? "ɚ"
                                                             : named.ipa;
        symbols.push_back({named.is_vowel ? name + std::to_string(stress) : name, ipa, phone + 1,
                           named.is_vowel ? stress : -1});
      }
    }
  }
};

const Tables& tables() {
  static const Tables all;
  return all;
}

}  // namespace

const std::string& symbol_name(int symbol) { return tables().symbols[symbol].name; }
int symbol_class(int symbol) { return tables().symbols[symbol].phone_class; }
int symbol_stress(int symbol) { return tables().symbols[symbol].stress; }
const std::string& symbol_ipa(int symbol) { return tables().symbols[symbol].ipa; }
const std::string& class_name(int phone_class) { return tables().classes[phone_class]; }

int symbol_named(const std::string& name) {
  for (int symbol = 0; symbol < kSymbols; ++symbol) {
    if (symbol_name(symbol) == name) return symbol;
  }
  throw std::logic_error(name + " is no phone");
}

}  // namespace asa
