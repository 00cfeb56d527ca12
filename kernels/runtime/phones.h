// ARPAbet phones, as asa_engine/text/phones.py has them.
#pragma once

#include <string>
#include <vector>

namespace asa {

// Phones with vowels' stress, one code each: an index into SYMBOLS of
// asa_engine/text/dictionary.py.
using Pronunciation = std::vector<int>;

inline constexpr int kSymbols = 69;
inline constexpr int kPhones = 39;            // without stress
inline constexpr int kClasses = 1 + kPhones;  // silence, which is class 0, and the phones

// "AH0"; its class, "AH"'s; its stress digit, -1 for consonants; "ə".
const std::string& symbol_name(int symbol);
int symbol_class(int symbol);
int symbol_stress(int symbol);
const std::string& symbol_ipa(int symbol);

// A class's phone without stress; class 1 and up.
const std::string& class_name(int phone_class);

// The symbol of a name; throws std::logic_error for one that is none.
int symbol_named(const std::string& name);

// Whether a symbol is a vowel.
inline bool is_vowel(int symbol) { return symbol_stress(symbol) >= 0; }

}  // namespace asa
