#include "device_file.h"

#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "asa/log_mel.h"
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
constexpr std::uint32_t kMostText = 1024, kMostNumbers = 4096, kMostAspects = 64;
constexpr int kMostWidth = 8192, kMostCentres = 65536, kMostLayers = 64, kMostHeads = 128;
constexpr int kMostInner = 32768, kMostPositions = 3000;  // 60 s of frames
constexpr int kLeastHead = 8;  // kernels pad heads to their panels: narrower ones only waste memory
constexpr std::uint32_t kMostWindow = 60 * kSampleRate;
constexpr int kStride = 2 * kHop;  // samples a frame of the encoder

[[noreturn]] void damaged(const std::string& what) {
  throw FileError("the grader file is damaged: " + what + "; copy or export it again");
}

void need(bool ok, const char* what) {
  if (!ok) damaged(what);
}

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

// Whether a text is UTF-8 (RFC 3629): no byte is missing, nothing is longer than it must be, and no
// halves of surrogate pairs.
bool is_utf8(const std::string& text) {
  const auto* at = reinterpret_cast<const std::uint8_t*>(text.data());
  const auto* const end = at + text.size();
  while (at < end) {
    const std::uint32_t first = *at++;
    if (first < 0x80) continue;
    const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4 || end - at < more) return false;
    std::uint32_t code = first & (0x3f >> more);
    for (int i = 0; i < more; ++i, ++at) {
      if ((*at & 0xc0) != 0x80) return false;
      code = code << 6 | (*at & 0x3f);
    }
    constexpr std::uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    if (code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
  }
  return true;
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

// Reads numbers and texts one behind the other; throws where they end too early.
class DeviceFile::Cursor {
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

DeviceFile::DeviceFile(const std::uint8_t* bytes, std::size_t size) : bytes_(bytes), size_(size) {
  if (size < kHeaderBytes || std::memcmp(bytes, kMagic, sizeof(kMagic))) {
    throw FileError(
        "this is no grader file for devices; make one: asa-engine export acoustic -o grader.asa "
        "--target device");
  }
  Cursor header(bytes + sizeof(kMagic), kHeaderBytes - sizeof(kMagic));
  const auto revision = header.take<std::uint32_t>();
  if (revision != kRevision) {
    throw FileError("the grader file is of revision " + std::to_string(revision) +
                    ", this library reads revision " + std::to_string(kRevision) +
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
  read_config(cursor);
  read_tensors(cursor, kHeaderBytes + described);
  need(cursor.is_done(), "its description goes on behind its end");
}

void DeviceFile::read_config(Cursor& cursor) {
  GraderConfig& c = config_;
  for (std::string* text : {&c.grader, &c.bundle, &c.bundle_version, &c.bundle_sha256,
                            &c.engine_version, &c.precision}) {
    *text = cursor.text();
  }
  if (c.grader != "acoustic") {
    throw FileError(
        "the grader file holds a grader of another kind than acoustic, the one that "
        "this library runs");
  }
  EncoderShape& e = c.encoder;
  e.mels = cursor.size(kMaxMels, "n_mels is out of range");
  e.width = cursor.size(kMostWidth, "d_model is out of range");
  e.layers = cursor.size(kMostLayers, "layers is out of range");
  e.heads = cursor.size(kMostHeads, "heads is out of range");
  e.inner = cursor.size(kMostInner, "ffn is out of range");
  e.positions = cursor.size(kMostPositions, "positions is out of range");
  need(e.width % e.heads == 0 && e.width / e.heads >= kLeastHead, "d_model and heads do not fit");
  c.window_samples = cursor.size(kMostWindow, "the window is out of range", kSampleRate / 10);
  c.min_window_samples = cursor.size(c.window_samples, "the least window is out of range", kStride);
  need(c.window_samples % kStride == 0, "the window is not made of whole frames");
  need(c.window_samples / kStride <= e.positions, "the window is longer than positions");
  c.pad_to_window = cursor.at_most(1, "the padding is unknown") == 1;
  c.front = static_cast<Front>(cursor.at_most(2, "the front is unknown"));
  HeadShape& h = c.head;
  h.width = e.width;
  h.heads = cursor.size(kMostHeads, "attention_heads is out of range");
  h.prior_width = cursor.size(kMostWidth, "prior_width is out of range");
  h.embedding = cursor.size(kMostWidth, "prior_embedding is out of range");
  h.hidden = cursor.size(kMostWidth, "head_width is out of range");
  h.centres = cursor.size(kMostCentres, "kernel_centres is out of range", 0);
  h.place = cursor.size(kMostWidth, "kernel_width is out of range", 0);
  need((h.centres == 0) == (h.place == 0), "its kernel regressor is half there");
  h.outputs = h.centres ? e.layers + 1 : 0;
  c.prior_levels = cursor.ascending(2);
  h.levels = static_cast<int>(c.prior_levels.size());
  c.aspects.resize(cursor.at_most(kMostAspects, "the number of aspects is out of range", 1));
  h.aspects = static_cast<int>(c.aspects.size());
  for (Aspect& aspect : c.aspects) {
    aspect.name = cursor.text();
    for (const Aspect* other = c.aspects.data(); other != &aspect; ++other) {
      need(other->name != aspect.name, "two aspects have one name");
    }
    aspect.scale_min = cursor.number();
    aspect.scale_max = cursor.number();
    need(aspect.scale_min < aspect.scale_max, "a scale is empty");
    aspect.level_cuts = cursor.ascending(0);
    aspect.level_names.resize(cursor.at_most(kMostNumbers, "too many levels"));
    for (std::string& name : aspect.level_names) name = cursor.text();
    need(aspect.level_names.empty() || aspect.level_names.size() == aspect.level_cuts.size() + 1,
         "levels and their cuts do not go together");
    aspect.sd.resize(cursor.at_most(kMostNumbers, "too many expected errors"));
    for (std::size_t i = 0; i < aspect.sd.size(); ++i) {
      aspect.sd[i].first = cursor.number();
      aspect.sd[i].second = cursor.number();
      need(i == 0 || aspect.sd[i].first > aspect.sd[i - 1].first,
           "expected errors do not ascend in time");
    }
  }
}

// Tensors stand in the order in which they are listed and share no byte, so what they hold in all
// is no more than what the file holds.
void DeviceFile::read_tensors(Cursor& cursor, std::uint64_t begin) {
  tensors_.resize(cursor.at_most(kMostNumbers, "too many tensors"));
  for (Tensor& tensor : tensors_) {
    tensor.name = cursor.text();
    tensor.type = static_cast<Type>(cursor.at_most(1, "a tensor's type is unknown"));
    tensor.offset = cursor.take<std::uint64_t>();
    tensor.count = cursor.take<std::uint64_t>();
    const std::uint64_t item = tensor.type == Type::float32 ? 4 : 2;
    need(tensor.offset % kAlignment == 0 && tensor.offset >= begin && tensor.offset <= size_ &&
             tensor.count <= (size_ - tensor.offset) / item,
         "a tensor lies outside of it");
    begin = tensor.offset + tensor.count * item;
  }
}

void DeviceFile::read(const std::string& name, std::uint64_t count, std::vector<float>& to) const {
  for (const Tensor& tensor : tensors_) {
    if (tensor.name != name) continue;
    if (tensor.count != count) damaged(name + " is of another size than its grader's");
    const std::uint8_t* from = bytes_ + tensor.offset;
    const std::size_t at = to.size();
    to.resize(at + count);
    if (tensor.type == Type::float32) {
      std::memcpy(to.data() + at, from, count * sizeof(float));
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        std::uint16_t half;
        std::memcpy(&half, from + 2 * i, sizeof(half));
        to[at + i] = half_to_float(half);
      }
    }
    bool finite = true;
    for (std::size_t i = 0; i < count; ++i) {
      finite &= (bits_of<std::uint32_t>(to[at + i]) & 0x7f800000) != 0x7f800000;
    }
    if (!finite) damaged(name + " holds NaN or infinity");
    return;
  }
  damaged(name + " is missing");
}

std::vector<float> DeviceFile::read(const std::string& name, std::uint64_t count) const {
  std::vector<float> values;
  read(name, count, values);
  return values;
}

void DeviceFile::expect_tensors(std::size_t count) const {
  need(tensors_.size() == count, "it holds tensors that no grader of its kind has");
}

}  // namespace asa
