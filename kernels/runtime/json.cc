#include "json.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace asa {

void JsonWriter::separate() {
  if (!is_first_) out_ += ", ";
  is_first_ = false;
}

JsonWriter& JsonWriter::begin(char bracket) {
  separate();
  out_ += bracket;
  is_first_ = true;
  return *this;
}

JsonWriter& JsonWriter::end(char bracket) {
  out_ += bracket;
  is_first_ = false;
  return *this;
}

JsonWriter& JsonWriter::name(std::string_view name) {
  text(name);
  out_ += ": ";
  is_first_ = true;
  return *this;
}

JsonWriter& JsonWriter::text(std::string_view value) {
  separate();
  out_ += '"';
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out_ += '\\';
      out_ += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", byte);
      out_ += escaped;
    } else {
      out_ += c;
    }
  }
  out_ += '"';
  return *this;
}

JsonWriter& JsonWriter::number(double value) {
  if (!std::isfinite(value)) return null();
  separate();
  char text[40];
  const bool is_whole = std::fabs(value) < 1e15 && value == std::trunc(value);
  if (is_whole) std::snprintf(text, sizeof(text), "%.1f", value);
  for (int digits = 1; !is_whole && digits <= 17; ++digits) {
    std::snprintf(text, sizeof(text), "%.*g", digits, value);
    if (std::strtod(text, nullptr) == value) break;
  }
  for (const char* c = text; *c; ++c) {
    // The program's locale may write another decimal point.
    const bool plain = (*c >= '0' && *c <= '9') || *c == '-' || *c == '+' || *c == 'e';
    if (plain || out_.back() != '.') out_ += plain ? *c : '.';
  }
  return *this;
}

JsonWriter& JsonWriter::number(std::size_t value) {
  separate();
  out_ += std::to_string(value);
  return *this;
}

JsonWriter& JsonWriter::truth(bool value) {
  separate();
  out_ += value ? "true" : "false";
  return *this;
}

JsonWriter& JsonWriter::null() {
  separate();
  out_ += "null";
  return *this;
}

}  // namespace asa
