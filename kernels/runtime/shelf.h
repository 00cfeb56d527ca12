#pragma once

#include <string>
#include <vector>

#include "device_file.h"

namespace asa {

// Tensors one behind the other, each where a cache line begins, as pointers.
class Shelf {
 public:
  Shelf(const DeviceFile& file, std::vector<float>& values) : file_(file), values_(values) {}

  void add(const std::string& name, std::uint64_t count, const float** to) {
    places_.push_back({values_.size(), to});
    file_.read(name, count, values_);
    values_.resize((values_.size() + 15) / 16 * 16);
  }

  // Once all are there, and move no more.
  void point() const {
    for (const auto& [at, to] : places_) *to = values_.data() + at;
  }

 private:
  struct Place {
    std::size_t at;
    const float** to;
  };
  const DeviceFile& file_;
  std::vector<float>& values_;
  std::vector<Place> places_;
};

}  // namespace asa
