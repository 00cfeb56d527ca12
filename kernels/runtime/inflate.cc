#include "inflate.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cursor.h"

namespace asa {
namespace {

constexpr int kMostBits = 15, kEndOfBlock = 256;
constexpr int kLiterals = 288, kDistances = 30, kLengths = 29;

// Bits of a byte string, the lowest first.
class Bits {
 public:
  explicit Bits(std::string_view data) : data_(data) {}

  int take(int count) {
    while (held_ < count) {
      need(at_ < data_.size(), "deflated data are cut");
      bits_ |= std::uint32_t{static_cast<std::uint8_t>(data_[at_++])} << held_;
      held_ += 8;
    }
    const std::uint32_t value = bits_ & ((1u << count) - 1);
    bits_ >>= count;
    held_ -= count;
    return static_cast<int>(value);
  }

  // The bytes that follow; bits that are left of one are dropped.
  std::string_view bytes(std::size_t count) {
    bits_ = 0;
    held_ = 0;
    need(count <= data_.size() - at_, "deflated data are cut");
    at_ += count;
    return data_.substr(at_ - count, count);
  }

 private:
  std::string_view data_;
  std::size_t at_ = 0;
  std::uint32_t bits_ = 0;
  int held_ = 0;
};

// A canonical Huffman code: how many symbols have each length, and the symbols in order.
class Code {
 public:
  Code(const std::uint8_t* lengths, int count) : counts_(kMostBits + 1), symbols_(count) {
    for (int i = 0; i < count; ++i) ++counts_[lengths[i]];
    counts_[0] = 0;
    int left = 1;
    std::vector<int> next(kMostBits + 2);
    for (int bits = 1; bits <= kMostBits; ++bits) {
      left = 2 * left - counts_[bits];
      need(left >= 0, "deflated data have no code");
      next[bits + 1] = next[bits] + counts_[bits];
    }
    for (int i = 0; i < count; ++i) {
      if (lengths[i]) symbols_[next[lengths[i]]++] = i;
    }
  }

  int read(Bits& bits) const {
    int code = 0, first = 0, index = 0;
    for (int length = 1; length <= kMostBits; ++length) {
      code |= bits.take(1);
      const int count = counts_[length];
      if (code - count < first) return symbols_[index + code - first];
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    damaged("deflated data hold no symbol");
  }

 private:
  std::vector<int> counts_, symbols_;
};

struct Codes {
  Code literals, distances;
};

Codes fixed_codes() {
  std::uint8_t lengths[kLiterals], distances[kDistances];
  for (int i = 0; i < kLiterals; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
  std::fill_n(distances, kDistances, std::uint8_t{5});
  return {{lengths, kLiterals}, {distances, kDistances}};
}

Codes dynamic_codes(Bits& bits) {
  constexpr int order[] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
  const int literals = 257 + bits.take(5), distances = 1 + bits.take(5), known = 4 + bits.take(4);
  need(literals <= kLiterals && distances <= kDistances, "deflated data have too many codes");
  std::uint8_t lengths[kLiterals + kDistances] = {};
  for (int i = 0; i < known; ++i) lengths[order[i]] = static_cast<std::uint8_t>(bits.take(3));
  const Code of_lengths(lengths, 19);
  std::fill(std::begin(lengths), std::end(lengths), std::uint8_t{0});
  for (int at = 0; at < literals + distances;) {
    const int symbol = of_lengths.read(bits);
    if (symbol < 16) {
      lengths[at++] = static_cast<std::uint8_t>(symbol);
      continue;
    }
    need(symbol > 16 || at > 0, "deflated data repeat nothing");
    const std::uint8_t value = symbol == 16 ? lengths[at - 1] : 0;
    const int times = symbol == 16   ? 3 + bits.take(2)
                      : symbol == 17 ? 3 + bits.take(3)
                                     : 11 + bits.take(7);
    need(times <= literals + distances - at, "deflated data have too many lengths");
    std::fill_n(lengths + at, times, value);
    at += times;
  }
  return {{lengths, literals}, {lengths + literals, distances}};
}

void take_block(Bits& bits, const Codes& codes, std::size_t most, std::string& out) {
  constexpr int length_of[kLengths] = {3,  4,  5,  6,   7,   8,   9,   10,  11, 13,
                                       15, 17, 19, 23,  27,  31,  35,  43,  51, 59,
                                       67, 83, 99, 115, 131, 163, 195, 227, 258};
  constexpr int length_bits[kLengths] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                         2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
  for (;;) {
    const int symbol = codes.literals.read(bits);
    if (symbol == kEndOfBlock) return;
    if (symbol < kEndOfBlock) {
      need(out.size() < most, "deflated data are too many");
      out += static_cast<char>(symbol);
      continue;
    }
    const int which = symbol - kEndOfBlock - 1;
    need(which < kLengths, "deflated data have no such length");
    const std::size_t length = length_of[which] + bits.take(length_bits[which]);
    const int far = codes.distances.read(bits);
    const int more = far < 2 ? 0 : far / 2 - 1;
    const std::size_t base = far < 2 ? far + 1 : ((2 + std::size_t(far & 1)) << more) + 1;
    const std::size_t distance = base + bits.take(more);
    need(distance <= out.size(), "deflated data point before their beginning");
    need(length <= most - out.size(), "deflated data are too many");
    for (std::size_t i = 0; i < length; ++i) out += out[out.size() - distance];
  }
}

}  // namespace

std::string inflate(std::string_view deflated, std::size_t most) {
  need(deflated.size() > 2 && (deflated[0] & 0x0f) == 8 && !(deflated[1] & 0x20),
       "deflated data have no header");
  Bits bits(deflated.substr(2));
  std::string out;
  for (bool is_last = false; !is_last;) {
    is_last = bits.take(1);
    const int kind = bits.take(2);
    if (kind == 0) {
      const auto sizes = bits.bytes(4);
      const auto byte = [&](int i) { return std::size_t{static_cast<std::uint8_t>(sizes[i])}; };
      const std::size_t size = byte(0) | byte(1) << 8;
      need((byte(2) | byte(3) << 8) == (size ^ 0xffff), "deflated data have no size");
      need(size <= most - out.size(), "deflated data are too many");
      out += bits.bytes(size);
    } else if (kind == 1) {
      take_block(bits, fixed_codes(), most, out);
    } else {
      need(kind == 2, "deflated data are of an unknown kind");
      take_block(bits, dynamic_codes(bits), most, out);
    }
  }
  return out;
}

}  // namespace asa
