// The C interface: handles, errors for exceptions, one thread at a time in a stream.
#include "asa.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "asa/isa.h"
#include "asa/thread_pool.h"
#include "grader.h"
#include "plain_text.h"
#include "stream.h"
#include "version.h"

struct asa_grader {
  std::shared_ptr<const asa::Grader> grader;
};

struct asa_stream {
  asa::Stream stream;
  std::atomic_flag is_busy = ATOMIC_FLAG_INIT;
  bool is_broken = false;  // something failed half-way
};

namespace {

// Writes a line into `error`, or nowhere; never fails.
asa_status fail(asa_error* error, asa_status status, const char* message) noexcept {
  if (!error) return status;
  error->status = status;
  std::snprintf(error->message, sizeof(error->message), "%s", message);
  for (char* c = error->message; *c; ++c) {
    if (static_cast<unsigned char>(*c) < 0x20) *c = ' ';
  }
  return status;
}

asa_status succeed(asa_error* error) noexcept {
  if (error) *error = {};
  return ASA_OK;
}

// Runs work(); what it throws becomes a status.
template <class Work>
asa_status guarded(asa_error* error, const Work& work) noexcept {
  try {
    work();
    return succeed(error);
  } catch (const asa::FileError& e) {
    return fail(error, ASA_ERROR_FILE, e.what());
  } catch (const asa::AudioError& e) {
    return fail(error, ASA_ERROR_AUDIO, e.what());
  } catch (const asa::TextError& e) {
    return fail(error, ASA_ERROR_TEXT, e.what());
  } catch (const asa::OrderError& e) {
    return fail(error, ASA_ERROR_ORDER, e.what());
  } catch (const std::bad_alloc&) {
    return fail(error, ASA_ERROR_MEMORY, "out of memory");
  } catch (const std::invalid_argument& e) {
    return fail(error, ASA_ERROR_ARGUMENT, e.what());
  } catch (const std::exception& e) {
    return fail(error, ASA_ERROR_INTERNAL, e.what());
  } catch (...) {
    return fail(error, ASA_ERROR_INTERNAL, "something failed that has no name");
  }
}

asa_status check(const asa_options* options, asa_error* error) noexcept {
  if (!options) return ASA_OK;
  if (options->size != sizeof(asa_options)) {
    return fail(error, ASA_ERROR_ARGUMENT, "asa_options.size is not sizeof(asa_options)");
  }
  if (options->threads < 0 || options->threads > asa::ThreadPool::kMost) {
    return fail(error, ASA_ERROR_ARGUMENT, "asa_options.threads must be from 0 to 256");
  }
  return ASA_OK;
}

// Opens what load() gives, a file that lives as long as its call of use(bytes, size).
template <class Load>
asa_status open(const asa_options* options, asa_grader** grader, asa_error* error,
                const Load& load) noexcept {
  if (!grader) return fail(error, ASA_ERROR_ARGUMENT, "asa_grader_open: grader is null");
  *grader = nullptr;
  if (const asa_status status = check(options, error)) return status;
  const int threads = options && options->threads ? options->threads : 1;
  const char* const precision = options ? options->precision : nullptr;
  try {
    asa::kernels();
  } catch (const std::bad_alloc&) {
    return fail(error, ASA_ERROR_MEMORY, "out of memory");
  } catch (const std::exception& e) {
    return fail(error, ASA_ERROR_DEVICE, e.what());
  }
  return guarded(error, [&] {
    load([&](const std::uint8_t* bytes, std::size_t size) {
      const asa::DeviceFile file(bytes, size);
      auto opened = std::make_unique<asa_grader>();
      opened->grader = std::make_shared<asa::Grader>(file, precision, threads);
      *grader = opened.release();
    });
  });
}

// Runs work(stream), unless another thread does, or the stream is broken.
template <class Work>
asa_status with(asa_stream* stream, asa_error* error, const Work& work) noexcept {
  if (!stream) return fail(error, ASA_ERROR_ARGUMENT, "the stream is null");
  if (stream->is_busy.test_and_set(std::memory_order_acquire)) {
    return fail(error, ASA_ERROR_BUSY, "another thread is in a call on this stream");
  }
  asa_status status;
  if (stream->is_broken) {
    status = fail(error, ASA_ERROR_ORDER, "the stream has failed before; close it");
  } else {
    status = guarded(error, [&] { work(stream->stream); });
    stream->is_broken = status == ASA_ERROR_MEMORY || status == ASA_ERROR_INTERNAL;
  }
  stream->is_busy.clear(std::memory_order_release);
  return status;
}

template <class Sample>
asa_status feed(asa_stream* stream, const Sample* samples, size_t count,
                asa_error* error) noexcept {
  if (!samples && count) return fail(error, ASA_ERROR_ARGUMENT, "the samples are null");
  return with(stream, error, [&](asa::Stream& s) { s.feed(samples, count); });
}

// text: null where none is known.
asa_status start(asa_grader* grader, int sample_rate_hz, int channels, const char* text,
                 asa_stream** stream, asa_error* error) noexcept {
  if (!stream) return fail(error, ASA_ERROR_ARGUMENT, "asa_stream_open: stream is null");
  *stream = nullptr;
  if (!grader) return fail(error, ASA_ERROR_ARGUMENT, "the grader is null");
  if (sample_rate_hz != ASA_SAMPLE_RATE_HZ || channels != 1) {
    return fail(error, ASA_ERROR_AUDIO,
                "16000 Hz with one channel is taken, nothing else; open the microphone so, or "
                "convert before feeding");
  }
  return guarded(error, [&] { *stream = new asa_stream{asa::Stream(grader->grader, text)}; });
}

}  // namespace

extern "C" {

const char* asa_version(void) { return asa::kVersion; }

int asa_abi_version(void) { return ASA_ABI_VERSION; }

const char* asa_status_name(asa_status status) {
  switch (status) {
    case ASA_OK:
      return "ok";
    case ASA_ERROR_ARGUMENT:
      return "argument";
    case ASA_ERROR_ORDER:
      return "order";
    case ASA_ERROR_AUDIO:
      return "audio";
    case ASA_ERROR_FILE:
      return "file";
    case ASA_ERROR_MEMORY:
      return "memory";
    case ASA_ERROR_BUSY:
      return "busy";
    case ASA_ERROR_DEVICE:
      return "device";
    case ASA_ERROR_INTERNAL:
      return "internal";
    case ASA_ERROR_TEXT:
      return "text";
  }
  return "unknown";
}

asa_status asa_grader_open(const char* path, const asa_options* options, asa_grader** grader,
                           asa_error* error) {
  if (grader) *grader = nullptr;
  if (!path) return fail(error, ASA_ERROR_ARGUMENT, "asa_grader_open: path is null");
  return open(options, grader, error, [&](const auto& use) {
    const asa::MappedFile file(path);
    use(file.data(), file.size());
  });
}

asa_status asa_grader_open_bytes(const void* bytes, size_t size, const asa_options* options,
                                 asa_grader** grader, asa_error* error) {
  if (grader) *grader = nullptr;
  if (!bytes) return fail(error, ASA_ERROR_ARGUMENT, "asa_grader_open_bytes: bytes is null");
  return open(options, grader, error,
              [&](const auto& use) { use(static_cast<const std::uint8_t*>(bytes), size); });
}

const char* asa_grader_describe(const asa_grader* grader) {
  return grader ? grader->grader->description().c_str() : nullptr;
}

void asa_grader_close(asa_grader** grader) {
  if (!grader) return;
  delete *grader;
  *grader = nullptr;
}

asa_status asa_stream_open(asa_grader* grader, int sample_rate_hz, int channels,
                           asa_stream** stream, asa_error* error) {
  return start(grader, sample_rate_hz, channels, nullptr, stream, error);
}

asa_status asa_stream_open_text(asa_grader* grader, int sample_rate_hz, int channels,
                                const char* text, asa_stream** stream, asa_error* error) {
  if (stream) *stream = nullptr;
  if (!text) return fail(error, ASA_ERROR_ARGUMENT, "asa_stream_open_text: text is null");
  return start(grader, sample_rate_hz, channels, text, stream, error);
}

asa_status asa_stream_feed_f32(asa_stream* stream, const float* samples, size_t count,
                               asa_error* error) {
  return feed(stream, samples, count, error);
}

asa_status asa_stream_feed_i16(asa_stream* stream, const int16_t* samples, size_t count,
                               asa_error* error) {
  return feed(stream, samples, count, error);
}

asa_status asa_stream_provisional(asa_stream* stream, const char** json, asa_error* error) {
  if (!json) return fail(error, ASA_ERROR_ARGUMENT, "asa_stream_provisional: json is null");
  *json = nullptr;
  return with(stream, error, [&](asa::Stream& s) { *json = s.provisional().c_str(); });
}

asa_status asa_stream_finish(asa_stream* stream, const char** json, asa_error* error) {
  if (!json) return fail(error, ASA_ERROR_ARGUMENT, "asa_stream_finish: json is null");
  *json = nullptr;
  return with(stream, error, [&](asa::Stream& s) { *json = s.finish().c_str(); });
}

void asa_stream_close(asa_stream** stream) {
  if (!stream) return;
  delete *stream;
  *stream = nullptr;
}

}  // extern "C"
