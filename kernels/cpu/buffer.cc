#include "asa/buffer.h"

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace asa {
namespace {

constexpr std::size_t kLine = 64;

}  // namespace

// calloc takes large blocks from the system, which hands out zeroed pages as they are touched.
Buffer::Buffer(std::size_t words) : words_(words) {
  if (words > SIZE_MAX / sizeof(float) - kLine) throw std::bad_alloc();
  memory_ = std::calloc(words * sizeof(float) + kLine, 1);
  if (!memory_) throw std::bad_alloc();
  const auto at = reinterpret_cast<std::uintptr_t>(memory_);
  data_ = static_cast<char*>(memory_) + (kLine - at % kLine) % kLine;
}

Buffer::~Buffer() { std::free(memory_); }

Buffer::Buffer(Buffer&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      words_(std::exchange(other.words_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(data_, other.data_);
  std::swap(words_, other.words_);
  return *this;
}

void Buffer::reserve(std::size_t words) {
  if (words <= words_) return;
  *this = Buffer();
  *this = Buffer(words);
}

}  // namespace asa
