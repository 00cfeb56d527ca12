// Memory for weights and workspaces.
#pragma once

#include <cstddef>
#include <cstdint>

namespace asa {

// Zeroed 32-bit words, aligned to a cache line. What is never touched takes no memory.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t words);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  // Makes room for so many words; keeps what it has if that is enough, drops the contents if not.
  void reserve(std::size_t words);
  float* floats() const { return static_cast<float*>(data_); }
  std::int32_t* ints() const { return static_cast<std::int32_t*>(data_); }

 private:
  void* memory_ = nullptr;
  void* data_ = nullptr;
  std::size_t words_ = 0;
};

}  // namespace asa
