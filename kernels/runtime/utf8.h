// Texts in UTF-8 (RFC 3629).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace asa {

// Whether no byte is missing, nothing is longer than it must be, and no halves of surrogate pairs
// are there.
bool is_utf8(std::string_view text);

// The code point that begins at `at` of a text that is_utf8(); `at` moves behind it.
std::uint32_t next_code(std::string_view text, std::size_t& at);

}  // namespace asa
