// Every function of asa.h with what it must refuse, without memory, and from several threads.
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <thread>

#include "asa.h"
#include "tiny_reading.h"

namespace {

std::atomic<long> allocations_left{std::numeric_limits<long>::max()};

bool may_allocate() {
  return allocations_left.load(std::memory_order_relaxed) == std::numeric_limits<long>::max() ||
         allocations_left.fetch_sub(1) > 0;
}

}  // namespace

// Memory that runs out when a test says so: C++'s, and calloc, which the linker sends here.
[[gnu::noinline]] void* operator new(std::size_t size) {
  void* const memory = may_allocate() ? std::malloc(size ? size : 1) : nullptr;
  if (!memory) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return may_allocate() ? std::malloc(size ? size : 1) : nullptr;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

extern "C" {
void* __real_calloc(std::size_t count, std::size_t size);
void* __wrap_calloc(std::size_t count, std::size_t size) {
  return may_allocate() ? __real_calloc(count, size) : nullptr;
}
}

namespace {

using namespace asa::tests;

asa_grader* open(std::uint32_t front = 2, int threads = 1) {
  const Bytes file = tiny_file(front);
  const asa_options options = {sizeof(options), threads, nullptr};
  asa_grader* grader = nullptr;
  asa_error error;
  check(!asa_grader_open_bytes(file.data(), file.size(), &options, &grader, &error), error.message);
  return grader;
}

asa_stream* stream_of(asa_grader* grader) {
  asa_stream* stream = nullptr;
  check(!asa_stream_open(grader, 16000, 1, &stream, nullptr), "a stream opens");
  return stream;
}

// What does not hold times.
std::string without_timing(const char* json) {
  const std::string text = json;
  return text.substr(0, text.find("\"timing\"")) + text.substr(text.find("\"receipt\""));
}

asa_stream* reading_of(asa_grader* grader, const char* text = kTinyText) {
  asa_stream* stream = nullptr;
  asa_error error{};
  check(!asa_stream_open_text(grader, 16000, 1, text, &stream, &error), error.message);
  return stream;
}

std::string score(asa_grader* grader, const std::vector<float>& sound, std::size_t chunk) {
  const bool reads = std::strstr(asa_grader_describe(grader), "\"reads_texts\": true");
  asa_stream* stream = reads ? reading_of(grader) : stream_of(grader);
  const char* json = nullptr;
  asa_error error;
  for (std::size_t at = 0; at < sound.size(); at += chunk) {
    const std::size_t n = std::min(chunk, sound.size() - at);
    check(!asa_stream_feed_f32(stream, sound.data() + at, n, &error), error.message);
  }
  check(!asa_stream_finish(stream, &json, &error), error.message);
  const std::string found = json ? without_timing(json) : "";
  asa_stream_close(&stream);
  return found;
}

void test_null() {
  asa_error error;
  asa_grader* grader = nullptr;
  asa_stream* stream = nullptr;
  const char* json = nullptr;
  const float sample = 0;
  const std::int16_t integer = 0;
  const asa_status bad = ASA_ERROR_ARGUMENT;
  check(asa_grader_open(nullptr, nullptr, &grader, &error) == bad, "no path");
  check(asa_grader_open("x", nullptr, nullptr, &error) == bad, "nowhere to open to");
  check(asa_grader_open("x", nullptr, nullptr, nullptr) == bad, "nowhere to say why");
  check(asa_grader_open("/nowhere", nullptr, &grader, &error) == ASA_ERROR_FILE, "no file");
  check(asa_grader_open("/", nullptr, &grader, &error) == ASA_ERROR_FILE, "a folder");
  check(asa_grader_open_bytes(nullptr, 5, nullptr, &grader, &error) == bad, "no bytes");
  check(asa_grader_open_bytes("", 0, nullptr, &grader, &error) == ASA_ERROR_FILE, "empty");
  check(!grader && !asa_grader_describe(nullptr), "nothing to describe");
  check(asa_stream_open(nullptr, 16000, 1, &stream, &error) == bad && !stream, "no grader");
  check(asa_stream_feed_f32(nullptr, &sample, 1, &error) == bad, "no stream");
  check(asa_stream_feed_i16(nullptr, &integer, 1, &error) == bad, "no stream");
  check(asa_stream_provisional(nullptr, &json, &error) == bad, "no stream");
  check(asa_stream_finish(nullptr, &json, nullptr) == bad, "no stream");
  asa_grader_close(nullptr);
  asa_grader_close(&grader);
  asa_stream_close(nullptr);
  asa_stream_close(&stream);
  check(std::strlen(asa_version()) > 0 && asa_abi_version() == ASA_ABI_VERSION, "a version");
  check(!std::strcmp(asa_status_name(ASA_ERROR_FILE), "file"), "a name");
  check(!std::strcmp(asa_status_name(static_cast<asa_status>(99)), "unknown"), "no name");
}

void test_options() {
  const Bytes file = tiny_file();
  const auto refused = [&](const asa_options& options) {
    asa_grader* grader = nullptr;
    asa_error error;
    const asa_status status =
        asa_grader_open_bytes(file.data(), file.size(), &options, &grader, &error);
    check(status == ASA_ERROR_ARGUMENT && !grader && error.message[0], "options are looked at");
  };
  refused({0, 0, nullptr});
  refused({sizeof(asa_options), -1, nullptr});
  refused({sizeof(asa_options), 257, nullptr});
  refused({sizeof(asa_options), 1, "fp64"});
  for (const char* precision : {"fp32", "bf16", "int8"}) {
    const asa_options options = {sizeof(options), 2, precision};
    asa_grader* grader = nullptr;
    check(!asa_grader_open_bytes(file.data(), file.size(), &options, &grader, nullptr), precision);
    check(std::strstr(asa_grader_describe(grader), precision), "it says its precision");
    asa_grader_close(&grader);
    check(!grader, "closed handles are null");
  }
}

void test_order_and_audio() {
  asa_grader* grader = open();
  asa_error error;
  const char* json = nullptr;
  asa_stream* stream = nullptr;
  check(asa_stream_open(grader, 44100, 1, &stream, &error) == ASA_ERROR_AUDIO, "44.1 kHz");
  check(asa_stream_open(grader, 16000, 2, &stream, &error) == ASA_ERROR_AUDIO, "two channels");
  check(std::strstr(error.message, "16000"), error.message);
  check(asa_stream_open(grader, 16000, 1, nullptr, &error) == ASA_ERROR_ARGUMENT, "nowhere");
  stream = stream_of(grader);
  check(asa_stream_finish(stream, &json, &error) == ASA_ERROR_ORDER && !json, "nothing to judge");
  check(asa_stream_finish(stream, nullptr, &error) == ASA_ERROR_ARGUMENT, "nowhere");
  check(asa_stream_provisional(stream, nullptr, &error) == ASA_ERROR_ARGUMENT, "nowhere");
  check(!asa_stream_provisional(stream, &json, &error), "before any sample");
  check(std::strstr(json, "\"scores\": {}"), json);
  check(asa_stream_feed_f32(stream, nullptr, 1, &error) == ASA_ERROR_ARGUMENT, "null samples");
  check(!asa_stream_feed_f32(stream, nullptr, 0, &error), "nothing of null");
  std::vector<float> sound = bursts(1.5, 3);
  check(!asa_stream_feed_f32(stream, sound.data(), 100, &error), error.message);
  for (const float value : {std::nanf(""), INFINITY, 40.0f}) {
    std::vector<float> spoilt(sound.begin() + 100, sound.end());
    spoilt[500] = value;
    const asa_status status = asa_stream_feed_f32(stream, spoilt.data(), spoilt.size(), &error);
    check(status == ASA_ERROR_AUDIO, "not a sample");
  }
  const std::size_t most = std::numeric_limits<std::size_t>::max();
  check(asa_stream_feed_f32(stream, sound.data(), most, &error) == ASA_ERROR_AUDIO, "too long");
  const std::int16_t integer = 0;
  check(asa_stream_feed_i16(stream, &integer, most / 2, &error) == ASA_ERROR_AUDIO, "too long");
  // What was refused has changed nothing.
  check(!asa_stream_feed_f32(stream, sound.data() + 100, sound.size() - 100, &error), "the rest");
  check(!asa_stream_finish(stream, &json, &error), error.message);
  check(without_timing(json) == score(grader, sound, 777), "refusals change nothing");
  const std::string first = json;
  check(!asa_stream_finish(stream, &json, &error) && first == json, "asked again");
  check(asa_stream_feed_f32(stream, sound.data(), 1, &error) == ASA_ERROR_ORDER, "after its end");
  check(asa_stream_provisional(stream, &json, &error) == ASA_ERROR_ORDER, "after its end");
  asa_grader_close(&grader);  // the stream keeps what it needs
  check(!asa_stream_finish(stream, &json, &error) && first == json, "after its grader is closed");
  asa_stream_close(&stream);
}

void test_chunks() {
  const std::vector<float> sound = bursts(3.3, 5);
  std::vector<std::int16_t> integers;
  std::vector<float> rounded;
  for (const float sample : sound) {
    integers.push_back(static_cast<std::int16_t>(sample * 32767));
    rounded.push_back(static_cast<float>(integers.back()) / 32768);
  }
  for (const std::uint32_t front : {0u, 1u, 2u}) {
    asa_grader* grader = open(front);
    const std::string whole = score(grader, sound, sound.size());
    check(std::strstr(whole.c_str(), "\"fluency\""), "the tiny grader scores: " + whole);
    for (const std::size_t chunk : {std::size_t{1}, std::size_t{511}, std::size_t{16001}}) {
      check(score(grader, sound, chunk) == whole, "chunks of " + std::to_string(chunk));
    }
    asa_stream* stream = stream_of(grader);
    const char* json = nullptr;
    check(!asa_stream_feed_i16(stream, integers.data(), integers.size(), nullptr), "integers");
    check(!asa_stream_provisional(stream, &json, nullptr), "provisional");
    check(std::strstr(json, "\"fluency\""), "provisional scores");
    check(!asa_stream_finish(stream, &json, nullptr), "integers");
    check(without_timing(json) == score(grader, rounded, 4000), "integers are floats / 32768");
    asa_stream_close(&stream);
    asa_grader_close(&grader);
  }
}

asa_grader* open_reader(int threads = 1) {
  const Bytes file = tiny_reading_file();
  const asa_options options = {sizeof(options), threads, nullptr};
  asa_grader* grader = nullptr;
  asa_error error;
  check(!asa_grader_open_bytes(file.data(), file.size(), &options, &grader, &error), error.message);
  return grader;
}

void test_readings() {
  asa_grader* grader = open_reader();
  asa_error error;
  asa_stream* stream = nullptr;
  const auto refused = [&](const char* text, const char* why) {
    const asa_status status = asa_stream_open_text(grader, 16000, 1, text, &stream, &error);
    check(status == ASA_ERROR_TEXT && !stream && std::strstr(error.message, why), error.message);
  };
  refused("", "no word");
  refused("It is 5 pm", "'5'");
  refused("\xff", "UTF-8");
  refused("\xe4\xbd\xa0", "cannot be read aloud");
  refused("a.b", "'a.b'");
  refused("\a", "control character");
  check(asa_stream_open_text(grader, 16000, 1, nullptr, &stream, &error) == ASA_ERROR_ARGUMENT,
        "no text");
  check(asa_stream_open_text(nullptr, 16000, 1, "a", &stream, &error) == ASA_ERROR_ARGUMENT,
        "no grader");
  check(asa_stream_open_text(grader, 8000, 1, "a", &stream, &error) == ASA_ERROR_AUDIO, "8 kHz");
  check(asa_stream_open(grader, 16000, 1, &stream, &error) == ASA_ERROR_TEXT && !stream,
        "a grader of readings wants a text");
  asa_grader* acoustic = open();
  check(asa_stream_open_text(acoustic, 16000, 1, "a", &stream, &error) == ASA_ERROR_TEXT,
        "an acoustic grader wants none");
  asa_grader_close(&acoustic);

  const std::vector<float> sound = bursts(3.3, 5);
  const std::string whole = score(grader, sound, sound.size());
  check(whole.find("\"words\"") != std::string::npos, "the tiny grader judges words: " + whole);
  for (const std::size_t chunk : {std::size_t{1}, std::size_t{511}, std::size_t{16001}}) {
    check(score(grader, sound, chunk) == whole, "chunks of " + std::to_string(chunk));
  }
  stream = reading_of(grader);
  const char* json = nullptr;
  check(!asa_stream_feed_f32(stream, sound.data(), sound.size(), &error), error.message);
  check(!asa_stream_provisional(stream, &json, &error), error.message);
  check(std::strstr(json, "\"fluency\""), "provisional scores");
  asa_grader_close(&grader);  // the stream keeps what it needs
  check(!asa_stream_finish(stream, &json, &error), error.message);
  check(without_timing(json) == whole, "asking does not change what comes");
  asa_stream_close(&stream);
}

void test_threads(asa_grader* grader) {
  const std::vector<float> sound = bursts(2.2, 6);
  const std::string alone = score(grader, sound, 1600);
  std::array<std::string, 4> found;
  std::vector<std::thread> threads;
  for (std::string& one : found) {
    threads.emplace_back([&] { one = score(grader, sound, 1600); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& one : found) check(one == alone, "threads share a grader");

  // Two threads on one stream: one gets through, the other hears that it is busy.
  const bool reads = std::strstr(asa_grader_describe(grader), "\"reads_texts\": true");
  asa_stream* stream = reads ? reading_of(grader) : stream_of(grader);
  std::atomic<int> odd{0};
  threads.clear();
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      for (std::size_t at = 0; at + 160 <= sound.size(); at += 160) {
        const asa_status status = asa_stream_feed_f32(stream, sound.data() + at, 160, nullptr);
        odd += status != ASA_OK && status != ASA_ERROR_BUSY;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  check(odd == 0, "a stream is busy, or it is not");
  asa_stream_close(&stream);
  asa_grader_close(&grader);
}

// Fails the n-th allocation and all after it, for every n until nothing fails.
void test_memory(const Bytes& file, const char* text, long step) {
  const std::vector<float> sound = bursts(1.5, 8);
  bool done = false;
  long n = 0;
  for (; !done; n += n < 40 ? 1 : step) {
    asa_error error{};
    asa_grader* grader = nullptr;
    asa_stream* stream = nullptr;
    const char* json = nullptr;
    allocations_left = n;
    asa_status status = asa_grader_open_bytes(file.data(), file.size(), nullptr, &grader, &error);
    if (!status && text) {
      status = asa_stream_open_text(grader, 16000, 1, text, &stream, &error);
    } else if (!status) {
      status = asa_stream_open(grader, 16000, 1, &stream, &error);
    }
    if (!status) status = asa_stream_feed_f32(stream, sound.data(), sound.size(), &error);
    if (!status) status = asa_stream_provisional(stream, &json, &error);
    if (!status) status = asa_stream_finish(stream, &json, &error);
    allocations_left = std::numeric_limits<long>::max();
    check(status == error.status && (status == ASA_OK || status == ASA_ERROR_MEMORY),
          error.message);
    if (status && stream) {
      const asa_status later = asa_stream_feed_f32(stream, sound.data(), 1, &error);
      check(later == ASA_ERROR_ORDER, "a stream that has failed says so");
    }
    done = status == ASA_OK;
    asa_stream_close(&stream);
    asa_grader_close(&grader);
  }
  std::printf("out of memory at up to %ld allocations\n", n);
  check(n > 100, "memory ran out in many places");
}

}  // namespace

int main() {
  test_null();
  test_options();
  test_order_and_audio();
  test_chunks();
  test_readings();
  test_threads(open(2, 2));
  test_threads(open_reader(2));
  test_memory(tiny_file(), nullptr, 7);
  test_memory(tiny_reading_file(), kTinyText, 53);
  return result();
}
