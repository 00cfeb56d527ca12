// Reads a grader file's description: numbers in their ranges, texts, lists.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "device_file.h"
#include "utf8.h"

namespace asa {

inline constexpr std::uint32_t kMostText = 1024, kMostNumbers = 4096;

[[noreturn]] inline void damaged(const std::string& what) {
  throw FileError("the grader file is damaged: " + what + "; copy or export it again");
}

inline void need(bool ok, const char* what) {
  if (!ok) damaged(what);
}

// Reads numbers and texts one behind the other; throws where they end too early.
class Cursor {
 public:
  Cursor(const std::uint8_t* at, std::size_t left) : at_(at), left_(left) {}

  template <class T>
  T take() {
    T value;
    std::memcpy(&value, bytes(sizeof(T)), sizeof(T));
    return value;
  }

  std::uint32_t at_most(std::uint32_t most, const char* what, std::uint32_t least = 0) {
    const auto value = take<std::uint32_t>();
    need(value >= least && value <= most, what);
    return value;
  }

  int size(int most, const char* what, int least = 1) {
    return static_cast<int>(at_most(most, what, least));
  }

  double number() {
    const auto value = take<double>();
    need(std::isfinite(value), "a number is not finite");
    return value;
  }

  std::string text() {
    const std::uint32_t size = at_most(kMostText, "a text is too long");
    const auto* from = reinterpret_cast<const char*>(bytes(size));
    std::string value(from, from + size);
    need(is_utf8(value), "a text is not UTF-8");
    return value;
  }

  // Each larger than the one before.
  std::vector<double> ascending(std::uint32_t least) {
    std::vector<double> values(at_most(kMostNumbers, "a list is too long or short", least));
    for (double& value : values) {
      value = number();
      need(&value == values.data() || value > *(&value - 1), "a list does not ascend");
    }
    return values;
  }

  // The first of each larger than the one before.
  std::vector<std::pair<double, double>> pairs(const char* what) {
    std::vector<std::pair<double, double>> values(at_most(kMostNumbers, what));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i].first = number();
      values[i].second = number();
      need(i == 0 || values[i].first > values[i - 1].first, "a table does not ascend");
    }
    return values;
  }

  bool is_done() const { return left_ == 0; }

 private:
  const std::uint8_t* bytes(std::size_t count) {
    need(count <= left_, "its description is cut off");
    const std::uint8_t* from = at_;
    at_ += count;
    left_ -= count;
    return from;
  }

  const std::uint8_t* at_;
  std::size_t left_;
};

}  // namespace asa
