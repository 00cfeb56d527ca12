// A grader in one file: a header, a description, tensors. docs/devices.md has the layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "config.h"

namespace asa {

// The file is missing, damaged, hostile or too new; what() is one line.
struct FileError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The bytes of a file, mapped where the system can.
class MappedFile {
 public:
  // Throws FileError.
  explicit MappedFile(const char* path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
  std::vector<std::uint8_t> read_;  // where it is not mapped
};

class Cursor;

// Throws FileError.
GraderConfig read_config(Cursor& cursor);

// Everything of a file is checked before anything of it is used. The bytes must outlive it.
class DeviceFile {
 public:
  static constexpr std::uint32_t kRevision = 2, kOldest = 1;  // 1 has no float15 and float29
  static constexpr std::size_t kHeaderBytes = 64, kAlignment = 64;

  // Throws FileError.
  DeviceFile(const std::uint8_t* bytes, std::size_t size);

  const GraderConfig& config() const { return config_; }
  const std::string& sha256() const { return sha256_; }

  // Appends a tensor as float32; throws FileError where it is missing, of another count, or holds
  // NaN or infinity.
  void read(const std::string& name, std::uint64_t count, std::vector<float>& to) const;
  std::vector<float> read(const std::string& name, std::uint64_t count) const;

  // Appends numbers from `first` to before `end` of a tensor of `count`, as read() does. Of one in
  // 8 bits both are multiples of kGroup.
  void read_part(const std::string& name, std::uint64_t count, std::uint64_t first,
                 std::uint64_t end, std::vector<float>& to) const;

  // What is no tensor: a dictionary, a vocabulary. Throws FileError where it is missing.
  std::string_view bytes(const std::string& name) const;

  // Throws FileError unless everything that it holds has been read.
  void expect_all_read() const;

 private:
  // int8: every kGroup numbers share a scale, which stand in a tensor of their own, NAME.scale.
  // float15, float29: float16 and float32 without those bits of the exponent that all have alike.
  enum class Type : std::uint32_t {
    float32 = 0,
    float16 = 1,
    int8 = 2,
    bytes = 3,
    float15 = 4,
    float29 = 5
  };
  struct Tensor {
    std::string name;
    Type type;
    std::uint64_t offset, count;
    mutable bool is_read = false;

    int bits() const {
      constexpr int all[] = {32, 16, 8, 8, 15, 29};
      return all[static_cast<std::uint32_t>(type)];
    }
    std::uint64_t bytes() const { return (count * bits() + 7) / 8; }
  };

  const Tensor* find(const std::string& name) const;
  const Tensor& known(const std::string& name, std::uint64_t count) const;
  void read_tensors(Cursor& cursor, std::uint64_t begin);

  const std::uint8_t* bytes_;
  std::size_t size_;
  std::string sha256_;
  GraderConfig config_;
  std::vector<Tensor> tensors_;
};

}  // namespace asa
