#include "utf8.h"

namespace asa {

bool is_utf8(std::string_view text) {
  const auto* at = reinterpret_cast<const std::uint8_t*>(text.data());
  const auto* const end = at + text.size();
  while (at < end) {
    const std::uint32_t first = *at++;
    if (first < 0x80) continue;
    const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4 || end - at < more) return false;
    std::uint32_t code = first & (0x3f >> more);
    for (int i = 0; i < more; ++i, ++at) {
      if ((*at & 0xc0) != 0x80) return false;
      code = code << 6 | (*at & 0x3f);
    }
    constexpr std::uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    if (code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
  }
  return true;
}

std::uint32_t next_code(std::string_view text, std::size_t& at) {
  const std::uint32_t first = static_cast<std::uint8_t>(text[at++]);
  if (first < 0x80) return first;
  const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  std::uint32_t code = first & (0x3f >> more);
  for (int i = 0; i < more; ++i) code = code << 6 | (static_cast<std::uint8_t>(text[at++]) & 0x3f);
  return code;
}

}  // namespace asa
