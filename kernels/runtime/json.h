// Writes JSON: names and values in order, commas by itself.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace asa {

class JsonWriter {
 public:
  JsonWriter& open() { return begin('{'); }
  JsonWriter& close() { return end('}'); }
  JsonWriter& open_list() { return begin('['); }
  JsonWriter& close_list() { return end(']'); }
  JsonWriter& name(std::string_view name);
  JsonWriter& text(std::string_view value);
  JsonWriter& number(double value);  // the shortest that reads back as the same; null if not finite
  JsonWriter& number(std::size_t value);
  JsonWriter& truth(bool value);
  JsonWriter& null();

  const std::string& str() const { return out_; }

 private:
  void separate();
  JsonWriter& begin(char bracket);
  JsonWriter& end(char bracket);

  std::string out_;
  bool is_first_ = true;
};

}  // namespace asa
