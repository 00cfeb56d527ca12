#include "asa/buffer.h"

#include <cstring>
#include <new>
#include <utility>

namespace asa {
namespace {

constexpr std::align_val_t kLine{64};

}  // namespace

Buffer::Buffer(std::size_t words)
    : data_(::operator new(words * sizeof(float), kLine)), words_(words) {
  std::memset(data_, 0, words * sizeof(float));
}

Buffer::~Buffer() {
  if (data_) ::operator delete(data_, kLine);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), words_(std::exchange(other.words_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
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
