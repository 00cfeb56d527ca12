#include "device_file.h"

#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "asa/gemm.h"
#include "cursor.h"
#include "sha256.h"

#if defined(__unix__) && !defined(__EMSCRIPTEN__)
#define ASA_MAPS_FILES
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#include <cstdio>
#include <memory>
#endif

static_assert(std::endian::native == std::endian::little, "grader files are little-endian");

namespace asa {
namespace {

constexpr char kMagic[8] = {'A', 'S', 'A', 'D', 'E', 'V', '\r', '\n'};
// What std::bit_cast does; not every C++20 library has it yet.
template <class To, class From>
To bits_of(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half} >> 15 << 31;
  const std::uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 31) return bits_of<float>(sign | 0x7f800000 | fraction << 13);
  if (exponent) return bits_of<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float tiny = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -tiny : tiny;
}

// Sizes are below 2, so the exponent's highest bit is 0 and not there.
float float_of_15(std::uint32_t bits) {
  return half_to_float(static_cast<std::uint16_t>((bits & 0x4000) << 1 | (bits & 0x3fff)));
}

// Sizes are 0 or from 2^-30 to below 2, so exponents begin with 011, which is not there.
float float_of_29(std::uint32_t bits) {
  const std::uint32_t sign = bits >> 28 << 31, rest = bits & 0xfffffff;
  return bits_of<float>(sign | (rest ? rest + 0x30000000 : 0));
}

// Numbers `first` to before `end` of those that stand kBits wide behind each other, the lowest bit
// first.
template <int kBits, class Wide>
void widen(const std::uint8_t* from, std::uint64_t bytes, std::uint64_t first, std::uint64_t end,
           Wide wide, float* to) {
  for (std::uint64_t i = first; i < end; ++i) {
    const std::uint64_t at = i * kBits / 8;
    std::uint64_t word = 0;
    if (at + sizeof(word) <= bytes) {
      std::memcpy(&word, from + at, sizeof(word));
    } else {
      std::memcpy(&word, from + at, static_cast<std::size_t>(bytes - at));
    }
    const auto bits = static_cast<std::uint32_t>(word >> i * kBits % 8);
    *to++ = wide(bits & ((std::uint32_t{1} << kBits) - 1));
  }
}

}  // namespace

#ifdef ASA_MAPS_FILES

MappedFile::MappedFile(const char* path) {
  const auto fail = [&](int error) {
    throw FileError(std::string(path) + " cannot be read: " + std::strerror(error));
  };
  const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) fail(errno);
  struct stat about;
  void* mapped = MAP_FAILED;
  int error = fstat(file, &about) ? errno : 0;
  if (!error && !S_ISREG(about.st_mode)) error = EINVAL;
  if (!error && static_cast<std::uint64_t>(about.st_size) > SIZE_MAX) error = EFBIG;
  if (!error && about.st_size > 0) {
    mapped = mmap(nullptr, about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (mapped == MAP_FAILED) error = errno;
  }
  close(file);
  if (error) fail(error);
  if (mapped == MAP_FAILED) return;  // an empty file, of which there is nothing to map
  data_ = static_cast<const std::uint8_t*>(mapped);
  size_ = about.st_size;
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<std::uint8_t*>(data_), size_);
}

#else

MappedFile::MappedFile(const char* path) {
  const auto fail = [&] {
    throw FileError(std::string(path) + " cannot be read: " + std::strerror(errno));
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "rb"), std::fclose);
  if (!file || std::fseek(file.get(), 0, SEEK_END)) fail();
  const long size = std::ftell(file.get());
  if (size < 0 || std::fseek(file.get(), 0, SEEK_SET)) fail();
  read_.resize(size);
  if (std::fread(read_.data(), 1, read_.size(), file.get()) != read_.size()) fail();
  data_ = read_.data();
  size_ = read_.size();
}

MappedFile::~MappedFile() = default;

#endif

DeviceFile::DeviceFile(const std::uint8_t* bytes, std::size_t size) : bytes_(bytes), size_(size) {
  if (size < kHeaderBytes || std::memcmp(bytes, kMagic, sizeof(kMagic))) {
    throw FileError(
        "this is no grader file for devices; make one: asa-engine export acoustic -o grader.asa "
        "--target device");
  }
  Cursor header(bytes + sizeof(kMagic), kHeaderBytes - sizeof(kMagic));
  const auto revision = header.take<std::uint32_t>();
  if (revision < kOldest || revision > kRevision) {
    throw FileError("the grader file is of revision " + std::to_string(revision) +
                    ", this library reads revisions up to " + std::to_string(kRevision) +
                    "; take a library and a file of one release");
  }
  const std::size_t described = header.take<std::uint32_t>();
  if (header.take<std::uint64_t>() != size) damaged("it has lost its end, or grown");
  need(header.take<std::uint64_t>() == 0, "its header holds what it should not");
  need(described <= size - kHeaderBytes, "its description is longer than itself");
  Sha256 hash;
  hash.update(bytes + kHeaderBytes, size - kHeaderBytes);
  const Sha256::Digest digest = hash.digest();
  need(!std::memcmp(digest.data(), bytes + kHeaderBytes - digest.size(), digest.size()),
       "its bytes have not the hash that it states");
  sha256_ = hex(digest);
  Cursor cursor(bytes + kHeaderBytes, described);
  config_ = read_config(cursor);
  read_tensors(cursor, kHeaderBytes + described);
  need(cursor.is_done(), "its description goes on behind its end");
}

// Tensors stand in the order in which they are listed and share no byte, so what they hold in all
// is no more than what the file holds.
void DeviceFile::read_tensors(Cursor& cursor, std::uint64_t begin) {
  tensors_.resize(cursor.at_most(kMostNumbers, "too many tensors"));
  for (Tensor& tensor : tensors_) {
    tensor.name = cursor.text();
    tensor.type = static_cast<Type>(cursor.at_most(5, "a tensor's type is unknown"));
    tensor.offset = cursor.take<std::uint64_t>();
    tensor.count = cursor.take<std::uint64_t>();
    need(tensor.offset % kAlignment == 0 && tensor.offset >= begin && tensor.offset <= size_ &&
             tensor.count <= (size_ - tensor.offset) * 8 / tensor.bits(),
         "a tensor lies outside of it");
    begin = tensor.offset + tensor.bytes();
  }
}

const DeviceFile::Tensor* DeviceFile::find(const std::string& name) const {
  for (const Tensor& tensor : tensors_) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

const DeviceFile::Tensor& DeviceFile::known(const std::string& name, std::uint64_t count) const {
  const Tensor* const tensor = find(name);
  if (!tensor) damaged(name + " is missing");
  if (tensor->type == Type::bytes) damaged(name + " is no tensor");
  if (tensor->count != count) damaged(name + " is of another size than its grader's");
  tensor->is_read = true;
  return *tensor;
}

void DeviceFile::read_part(const std::string& name, std::uint64_t count, std::uint64_t first,
                           std::uint64_t end, std::vector<float>& to) const {
  const Tensor& tensor = known(name, count);
  if (first == end) return;
  const std::uint8_t* from = bytes_ + tensor.offset;
  const std::size_t at = to.size();
  to.resize(at + end - first);
  float* const values = to.data() + at;
  if (tensor.type == Type::float32) {
    std::memcpy(values, from + 4 * first, (end - first) * sizeof(float));
  } else if (tensor.type == Type::float16) {
    for (std::uint64_t i = first; i < end; ++i) {
      std::uint16_t half;
      std::memcpy(&half, from + 2 * i, sizeof(half));
      values[i - first] = half_to_float(half);
    }
  } else if (tensor.type == Type::float15) {
    const auto wide = [](std::uint32_t bits) { return float_of_15(bits); };
    widen<15>(from, tensor.bytes(), first, end, wide, values);
  } else if (tensor.type == Type::float29) {
    const auto wide = [](std::uint32_t bits) { return float_of_29(bits); };
    widen<29>(from, tensor.bytes(), first, end, wide, values);
  } else {
    if (count % kGroup || first % kGroup || end % kGroup) damaged(name + " has no whole groups");
    std::vector<float> scale;
    const Tensor& scales = known(name + ".scale", count / kGroup);
    if (scales.type == Type::int8) damaged(scales.name + " is in 8 bits");
    read_part(scales.name, scales.count, first / kGroup, end / kGroup, scale);
    for (std::uint64_t i = first; i < end; ++i) {
      values[i - first] =
          static_cast<float>(static_cast<std::int8_t>(from[i])) * scale[(i - first) / kGroup];
    }
  }
  bool finite = true;
  for (std::size_t i = at; i < to.size(); ++i) {
    finite &= (bits_of<std::uint32_t>(to[i]) & 0x7f800000) != 0x7f800000;
  }
  if (!finite) damaged(name + " holds NaN or infinity");
}

void DeviceFile::read(const std::string& name, std::uint64_t count, std::vector<float>& to) const {
  read_part(name, count, 0, count, to);
}

std::vector<float> DeviceFile::read(const std::string& name, std::uint64_t count) const {
  std::vector<float> values;
  read(name, count, values);
  return values;
}

std::string_view DeviceFile::bytes(const std::string& name) const {
  const Tensor* const tensor = find(name);
  if (!tensor) damaged(name + " is missing");
  if (tensor->type != Type::bytes) damaged(name + " is a tensor");
  tensor->is_read = true;
  return {reinterpret_cast<const char*>(bytes_ + tensor->offset),
          static_cast<std::size_t>(tensor->count)};
}

void DeviceFile::expect_all_read() const {
  for (const Tensor& tensor : tensors_) {
    if (!tensor.is_read) damaged("it holds " + tensor.name + ", which no grader of its kind has");
  }
}

}  // namespace asa
