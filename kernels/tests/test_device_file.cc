// Grader files that are damaged, truncated, hostile or too new: refused in one line, and what is
// not refused runs. `test_device_file SECONDS SEED` changes bytes for so long.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "asa.h"
#include "tiny_reading.h"

namespace {

using namespace asa::tests;

// Opens a file and, if it opens, scores half a second and a bit; returns the error.
asa_error run(const Bytes& file) {
  asa_error error{};
  asa_grader* grader = nullptr;
  const asa_status status =
      asa_grader_open_bytes(file.data(), file.size(), nullptr, &grader, &error);
  check(status == error.status, "the status is the error's");
  check((status == ASA_OK) == (grader != nullptr), "a grader, or an error");
  if (status != ASA_OK) {
    check(error.message[0] && !std::strchr(error.message, '\n'), "one line says why");
    return error;
  }
  asa_stream* stream = nullptr;
  static const std::vector<float> sound = bursts(1.3, 7);
  const char* json = nullptr;
  asa_error later{};
  // A changed file may hold either grader, and read no text that is given.
  if (asa_stream_open(grader, 16000, 1, &stream, &later)) {
    const asa_status opened = asa_stream_open_text(grader, 16000, 1, kTinyText, &stream, &later);
    check(opened == ASA_OK || opened == ASA_ERROR_TEXT || opened == ASA_ERROR_FILE, later.message);
    if (opened) {
      asa_grader_close(&grader);
      return error;
    }
  }
  check(!asa_stream_feed_f32(stream, sound.data(), sound.size(), &later), later.message);
  // Weights that were changed may give what is no number, and a reading may last a second.
  const asa_status finished = asa_stream_finish(stream, &json, &later);
  const bool is_known = finished == ASA_ERROR_FILE || finished == ASA_ERROR_AUDIO;
  check(finished ? is_known : json[0] == '{', later.message);
  if (finished == ASA_ERROR_FILE) {
    check(asa_stream_finish(stream, &json, nullptr) == ASA_ERROR_ORDER, "once is enough");
    error = later;
  }
  asa_stream_close(&stream);
  asa_grader_close(&grader);
  return error;
}

void refused(const Bytes& file, const char* because, asa_status status = ASA_ERROR_FILE) {
  const asa_error error = run(file);
  check(error.status == status && std::strstr(error.message, because),
        std::string("expected ") + because + ", not " + error.message);
}

template <class T>
Bytes changed(std::size_t at, T value, bool sealed = true) {
  static const Bytes good = tiny_file();
  Bytes file = good;
  std::memcpy(file.data() + at, &value, sizeof(value));
  if (sealed) seal(file);
  return file;
}

std::size_t place_of(const Bytes& file, const std::string& text) {
  return std::search(file.begin(), file.end(), text.begin(), text.end()) - file.begin();
}

void test_refusals() {
  const Bytes good = tiny_file();
  check(run(good).status == ASA_OK, "a good file opens");
  refused(Bytes(1), "no grader file");
  refused(Bytes(good.begin(), good.begin() + 63), "no grader file");
  refused(Bytes(good.begin(), good.end() - 1), "lost its end");
  Bytes longer = good;
  longer.push_back(0);
  refused(longer, "lost its end, or grown");
  refused(changed(0, 'B'), "no grader file");
  refused(changed(8, std::uint32_t{0}), "revision 0");
  refused(changed(8, std::uint32_t{3}), "revision 3");
  refused(changed(12, std::uint32_t{0xffffffff}), "longer than itself");
  refused(changed(12, std::uint32_t{100}), "cut off");
  refused(changed(24, std::uint64_t{1}), "should not");
  refused(changed(good.size() - 1, '\1', false), "hash");

  const std::size_t kind = place_of(good, "acoustic"), name = place_of(good, "voice.basis");
  refused(changed(kind, 'b'), "another kind");
  refused(changed(kind - 4, std::uint32_t{0xffffffff}), "too long");
  refused(changed(kind + 12, '\xff'), "not UTF-8");
  const std::size_t fluency = place_of(good, "fluency");
  for (const std::uint32_t bytes : {0x80u, 0x80c0u, 0x80e0u, 0x80a0edu, 0xfffff0u, 0x808090f4u}) {
    refused(changed(fluency, bytes), "not UTF-8");
  }
  check(run(changed(fluency, 0x80989ff0u)).status == ASA_OK, "UTF-8 of four bytes");
  const std::size_t overall = place_of(good, "overall");
  refused(changed(overall, std::array{'f', 'l', 'u', 'e', 'n', 'c', 'y'}), "one name");
  refused(changed(name, 'w'), "voice.basis is missing");
  refused(changed(name + 11, std::uint32_t{6}), "type is unknown");
  refused(changed(name + 11, std::uint32_t{0}), "outside");
  refused(changed(name + 15, std::uint64_t{64}), "outside");
  refused(changed(name + 15, std::uint64_t{1} << 63), "outside");
  refused(changed(name + 23, std::uint64_t{1} << 62), "outside");
  refused(changed(name + 23, std::uint64_t{7}), "another size");
  const std::size_t sizes = place_of(good, "fp32") + 4;
  for (int i = 0; i < 16; ++i) {
    refused(changed(sizes + 4 * i, std::uint32_t{0xffffffff}), "damaged");
  }
  refused(changed(sizes + 4, std::uint32_t{17}), "do not fit");
  refused(changed(sizes + 4 * 6, std::uint32_t{kTinyWindow + 320}), "longer than positions");
  refused(changed(sizes + 4 * 14, std::uint32_t{0}), "half there");
  refused(changed(place_of(good, "fp32"), 'x'), "precision", ASA_ERROR_ARGUMENT);
  const std::size_t norm = place_of(good, "encoder.conv1.bias");
  std::uint64_t at;
  std::memcpy(&at, good.data() + norm + 18 + 4, sizeof(at));
  refused(changed(at, std::nanf("")), "NaN or infinity");
}

// Scores, without the hash of the file and the times, of which the receipt and what follows tell.
std::string scores_of(const Bytes& file) {
  asa_error error{};
  asa_grader* grader = nullptr;
  asa_stream* stream = nullptr;
  const char* json = nullptr;
  const std::vector<float> sound = bursts(1.3, 7);
  const bool failed = asa_grader_open_bytes(file.data(), file.size(), nullptr, &grader, &error) ||
                      asa_stream_open(grader, 16000, 1, &stream, &error) ||
                      asa_stream_feed_f32(stream, sound.data(), sound.size(), &error) ||
                      asa_stream_finish(stream, &json, &error);
  check(!failed, error.message);
  std::string found = failed ? "" : json;
  found.resize(std::min(found.size(), found.find("\"timing\"")));
  asa_stream_close(&stream);
  asa_grader_close(&grader);
  return found;
}

// Numbers without the bits that all have alike are the same numbers.
void test_narrow_numbers() {
  const Bytes wide = tiny_file(2, Numbers::wide), narrow = tiny_file(2, Numbers::narrow);
  check(narrow.size() < wide.size() - 1000, "fewer bytes");
  const std::string expected = scores_of(wide);
  check(expected.find("overall") != std::string::npos, "it was scored");
  check(scores_of(narrow) == expected, "the same scores");
}

// The same of a grader that reads texts, and of what it reads them with.
void test_readings() {
  const Bytes good = tiny_reading_file();
  check(run(good).status == ASA_OK, "a good file opens");
  const auto changed_at = [&](const std::string& what, std::size_t by, auto value) {
    Bytes file = good;
    std::memcpy(file.data() + place_of(file, what) + by, &value, sizeof(value));
    seal(file);
    return file;
  };
  const std::size_t sizes = place_of(good, "fp32") + 4;
  for (int i = 0; i < 31; ++i) {
    Bytes file = good;
    std::memset(file.data() + sizes + 4 * i, 0xff, 4);
    seal(file);
    refused(file, "damaged");
  }
  refused(changed_at("ASADICT1", 0, 'B'), "dictionary is none");
  refused(changed_at("ASADICT1", 8, std::uint32_t{2}), "dictionary is cut");
  refused(changed_at("ASADICT1", 12, std::uint32_t{1} << 30), "dictionary is cut");
  refused(changed_at("ASADICT1", 16, '\0'), "deflated data have no header");
  refused(changed_at("ASADICT1", 18, '\7'), "deflated data are of an unknown kind");
  refused(changed_at("ASADICT1", 19, '\0'), "deflated data have no size");
  refused(changed_at("ASALTS01", 0, 'B'), "letter model is none");
  refused(changed_at("ASALTS01", 18, '\xff'), "no phones");
  refused(changed_at("<|notimestamps|>", 0, '?'), "lacks <|notimestamps|>");
  refused(changed_at("a\nb\nc\n", 0, '\n'), "vocabulary lacks a");
  refused(changed_at("0\tmr\tmister", 0, '9'), "abbreviations are no table");
  refused(changed_at("0\tmr\tmister", 5, '!'), "abbreviations stand for no words");
  refused(changed_at("decoder.embeddings/weight", 25, std::uint32_t{3}), "is no tensor");
  refused(changed_at("reader.letters", 14, std::uint32_t{2}), "is a tensor");
  refused(changed_at("decoder.embeddings/weight.scale", 31, std::uint32_t{2}), "in 8 bits");
  refused(changed_at("usual", 0, 'v'), "usual is missing");
  // Deviations of nothing: what is measured with them is no number.
  Bytes broken = good;
  std::uint64_t at;
  std::memcpy(&at, broken.data() + place_of(broken, "usual") + 5 + 4, sizeof(at));
  std::memset(broken.data() + at, 0, 80 * sizeof(float));
  seal(broken);
  refused(broken, "no number");
}

// Changes bytes where they are read before weights are; most files are refused, some are not.
void test_changed_bytes(double seconds, int least, unsigned seed) {
  std::mt19937 random(seed);
  const auto below = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
  };
  // A place in what texts are read with, where that is there.
  const auto reader_at = [&](const Bytes& file) {
    const std::size_t from = place_of(file, "ASADICT1");
    return from < file.size() ? std::min(from + below(1100), file.size() - 1) : below(file.size());
  };
  const auto start = std::chrono::steady_clock::now();
  const Bytes whole[] = {tiny_file(0), tiny_file(1), tiny_file(2, Numbers::narrow),
                         tiny_reading_file()};
  int opened = 0, files = 0;
  for (;; ++files) {
    const std::chrono::duration<double> so_far = std::chrono::steady_clock::now() - start;
    if (files >= least && so_far.count() > seconds) break;
    Bytes file = whole[below(4)];
    const std::size_t described = described_bytes(file);
    for (std::size_t left = 1 + below(3); left; --left) {
      // Behind the texts that are only shown; now and then in the header or the weights.
      const std::size_t kind = below(16);
      const std::size_t at = kind == 0   ? below(64)
                             : kind == 1 ? below(file.size())
                             : kind < 5  ? reader_at(file)
                                         : 64 + below(described);
      const std::uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff, static_cast<std::uint8_t>(random())};
      switch (below(8)) {
        case 0:
          file.erase(file.begin() + at);
          break;
        case 1:
          file.insert(file.begin() + at, values[below(6)]);
          break;
        case 2:
          std::memset(file.data() + at, values[below(6)],
                      std::min<std::size_t>(4, file.size() - at));
          break;
        default:
          file[at] = values[below(6)];
      }
      if (file.size() < 64) file.resize(64);
    }
    if (below(16)) seal(file);
    opened += run(file).status == ASA_OK;
  }
  std::printf("%d files changed (seed %u), of which %d opened\n", files, seed, opened);
  check(opened > 0 && opened < files, "some open, some do not");
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 0;
  const unsigned seed = argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1;
  test_refusals();
  test_narrow_numbers();
  test_readings();
  test_changed_bytes(seconds, 200, seed);
  return result();
}
