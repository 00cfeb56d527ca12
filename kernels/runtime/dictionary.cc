#include "dictionary.h"

#include <algorithm>
#include <cstring>

#include "cursor.h"
#include "inflate.h"

namespace asa {
namespace {

constexpr std::string_view kMagic = "ASADICT1";
constexpr std::size_t kHeader = 16, kMostBytes = std::size_t{1} << 20;
constexpr int kFirst = 128;  // code of the first phone

std::uint32_t number_at(std::string_view data, std::size_t at) {
  need(at <= data.size() && data.size() - at >= 4, "its dictionary is cut");
  std::uint32_t value;
  std::memcpy(&value, data.data() + at, sizeof(value));
  return value;
}

std::vector<Pronunciation> phones_of(std::string_view coded) {
  std::vector<Pronunciation> found(1);
  for (const char c : coded) {
    if (c == ',') {
      found.emplace_back();
      continue;
    }
    const int code = static_cast<std::uint8_t>(c) - kFirst;
    need(code >= 0 && code < kSymbols, "its dictionary has unknown phones");
    found.back().push_back(code);
  }
  for (const Pronunciation& said : found) need(!said.empty(), "its dictionary has a silent word");
  return found;
}

}  // namespace

Dictionary::Dictionary(std::string_view packed) {
  need(packed.size() >= kHeader && packed.substr(0, kMagic.size()) == kMagic,
       "its dictionary is none");
  const std::uint32_t count = number_at(packed, 8), size = number_at(packed, 12);
  need(size <= packed.size() - kHeader, "its dictionary is cut");
  const std::string index = inflate(packed.substr(kHeader, size), kMostBytes);
  std::size_t at = kHeader + size, place = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t bytes = number_at(index, place);
    const std::size_t end = index.find('\n', place + 4);
    need(end != std::string::npos && bytes <= packed.size() - at, "its dictionary is cut");
    blocks_.push_back(
        {index.substr(place + 4, end - place - 4), std::string(packed.substr(at, bytes))});
    at += bytes;
    place = end + 1;
  }
}

std::vector<Pronunciation> Dictionary::find(std::string_view word) const {
  const auto after = std::upper_bound(
      blocks_.begin(), blocks_.end(), word,
      [](std::string_view key, const Block& block) { return key < std::string_view(block.first); });
  if (after == blocks_.begin()) return {};
  const std::string block = inflate((after - 1)->packed, kMostBytes);
  const std::size_t letters_end = block.find("\n\n");
  need(letters_end != std::string::npos, "its dictionary has a block without end");
  std::string current;
  std::size_t line = 0, phones = letters_end + 2;
  while (line < letters_end) {
    const std::size_t end = std::min(block.find('\n', line), letters_end);
    need(end > line, "its dictionary has an empty word");
    const std::size_t shared = static_cast<std::uint8_t>(block[line]);
    need(shared <= current.size(), "its dictionary shares letters that are not there");
    current.resize(shared);
    current.append(block, line + 1, end - line - 1);
    const std::size_t phones_end = block.find('\n', phones);
    need(phones_end != std::string::npos, "its dictionary has words without phones");
    if (current == word) {
      return phones_of(std::string_view(block).substr(phones, phones_end - phones));
    }
    phones = phones_end + 1;
    line = end + 1;
  }
  return {};
}

}  // namespace asa
