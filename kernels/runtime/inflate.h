// Deflated data as they were (RFC 1950, RFC 1951).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace asa {

// Returns what zlib has deflated; throws FileError where it is damaged, cut, or more than `most`
// bytes. Its check sum is not looked at: grader files have a hash.
std::string inflate(std::string_view deflated, std::size_t most);

}  // namespace asa
