#include "plain_text.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "cursor.h"
#include "lexicon.h"
#include "utf8.h"

namespace asa {
namespace {

constexpr std::size_t kMostCharacters = 400'000, kEntry = 6;

}  // namespace

void refuse(std::string_view what, const char* why) {
  const bool is_long = what.size() > 40;
  std::size_t end = is_long ? 40 : what.size();
  while (is_long && end && (what[end] & 0xc0) == 0x80) --end;  // no half characters
  throw TextError("the text holds '" + std::string(what.substr(0, end)) + (is_long ? "...'" : "'") +
                  ", " + why);
}

Characters::Characters(std::string_view table) {
  while (!table.empty()) {
    need(table.size() >= kEntry, "its table of characters is cut");
    Entry entry;
    std::memcpy(&entry.code, table.data(), sizeof(entry.code));
    const auto kind = static_cast<std::uint8_t>(table[4]);
    const std::size_t size = static_cast<std::uint8_t>(table[5]);
    need(kind <= 2 && size <= table.size() - kEntry, "its table of characters is cut");
    need(entries_.empty() || entry.code > entries_.back().code,
         "its table of characters is out of order");
    entry.kind = static_cast<Kind>(kind);
    entry.plain = table.substr(kEntry, size);
    for (const char c : entry.plain) {
      need((c >= ' ' && c < 0x7f) || c == PlainText::kSymbol,
           "its table of characters is not plain");
    }
    entries_.push_back(std::move(entry));
    table.remove_prefix(kEntry + size);
  }
}

const Characters::Entry* Characters::find(std::uint32_t code) const {
  const auto at = std::lower_bound(entries_.begin(), entries_.end(), code,
                                   [](const Entry& e, std::uint32_t c) { return e.code < c; });
  return at != entries_.end() && at->code == code ? &*at : nullptr;
}

PlainText Characters::plain(std::string_view text) const {
  if (!is_utf8(text)) throw TextError("the text is not UTF-8; encode it so");
  PlainText found;
  bool takes_marks = true;  // at the beginning, behind a letter, behind another mark
  std::size_t count = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    const std::uint32_t code = next_code(text, at);
    if (++count > kMostCharacters) {
      throw TextError("the text has more than 400000 characters; read it in parts");
    }
    std::string_view plain;
    const char ascii = static_cast<char>(code);
    if (code < 0x80) {
      const bool is_space = code == ' ' || (code >= '\t' && code <= '\r');
      if (!is_space && (code < ' ' || code == 0x7f)) {
        throw TextError("the text holds a control character; leave it out");
      }
      plain = is_space ? " " : code == '`' ? "\"" : std::string_view(&ascii, 1);
      takes_marks = is_letter(ascii);
    } else {
      const std::string_view written = text.substr(start, at - start);
      const Entry* const entry = find(code);
      if (!entry || (entry->kind == Kind::mark && !takes_marks)) {
        refuse(written, "which cannot be read aloud in English; leave it out, or write the words");
      }
      plain = entry->plain;
      takes_marks = entry->kind != Kind::other;
    }
    found.text += plain;
    found.starts.insert(found.starts.end(), plain.size(), start);
    found.ends.insert(found.ends.end(), plain.size(), at);
  }
  return found;
}

}  // namespace asa
