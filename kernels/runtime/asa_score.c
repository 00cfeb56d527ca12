/* asa-score: scores a recording as a stream, chunk by chunk, with libasa.
 *
 *   asa-score [--text T] [--chunk-ms N] [--threads N] [--precision P] [--live] GRADER.asa FILE.wav
 *
 * FILE.wav is RIFF WAVE, one channel at 16 kHz, 16-bit integers or 32-bit floats.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "asa.h"

enum { PCM = 1, IEEE_FLOAT = 3, EXTENSIBLE = 0xFFFE };

typedef struct recording {
  int format, channels, rate_hz, bits;
  void* samples;
  size_t count;
} recording;

static int fail(const char* where, const char* what) {
  fprintf(stderr, "asa-score: %s: %s\n", where, what);
  return 1;
}

static unsigned little(const unsigned char* bytes, int count) {
  unsigned value = 0;
  while (count--) value = value << 8 | bytes[count];
  return value;
}

/* Reads the format and the samples; returns what is wrong, or NULL. */
static const char* read_wav(FILE* file, recording* r) {
  unsigned char head[40];
  if (fread(head, 1, 12, file) < 12 || memcmp(head, "RIFF", 4) || memcmp(head + 8, "WAVE", 4)) {
    return "is no WAV file";
  }
  while (fread(head, 1, 8, file) == 8) {
    size_t size = little(head + 4, 4);
    const size_t padding = size & 1;
    if (!memcmp(head, "data", 4)) {
      /* A program that writes to a pipe states a size that it does not know: read what is there. */
      size_t held = 0, room = 0, got;
      char* bytes = NULL;
      if (!r->format) return "has no format before its samples";
      do {
        if (room - held < 65536) {
          char* more = realloc(bytes, room = 2 * room + 65536);
          if (!more) {
            free(bytes);
            return "does not fit into memory";
          }
          bytes = more;
        }
        got = fread(bytes + held, 1, size - held < 65536 ? size - held : 65536, file);
        held += got;
      } while (got);
      r->samples = bytes;
      r->count = held / (size_t)(r->bits / 8);
      return NULL;
    }
    if (!memcmp(head, "fmt ", 4)) {
      size_t known = size < sizeof(head) ? size : sizeof(head);
      if (size < 16 || fread(head, 1, known, file) < known) return "has a broken format";
      r->format = (int)little(head, 2);
      if (r->format == EXTENSIBLE && known >= 26) r->format = (int)little(head + 24, 2);
      r->channels = (int)little(head + 2, 2);
      r->rate_hz = (int)little(head + 4, 4);
      r->bits = (int)little(head + 14, 2);
      if (!(r->format == PCM && r->bits == 16) && !(r->format == IEEE_FLOAT && r->bits == 32)) {
        return "holds neither 16-bit integers nor 32-bit floats";
      }
      size -= known;
    }
    for (size += padding; size; --size) {
      if (getc(file) == EOF) return "is cut off";
    }
  }
  return "holds no samples";
}

static asa_status feed(asa_stream* stream, const recording* r, size_t at, size_t count,
                       asa_error* error) {
  if (r->format == PCM) {
    return asa_stream_feed_i16(stream, (const int16_t*)r->samples + at, count, error);
  }
  return asa_stream_feed_f32(stream, (const float*)r->samples + at, count, error);
}

/* Feeds all of it; with `live`, says what the scores are as soon as they change. */
static asa_status score(asa_stream* stream, const recording* r, size_t chunk, int live,
                        const char** result, asa_error* error) {
  char said[4096] = "";
  for (size_t at = 0; at < r->count; at += chunk) {
    const size_t count = r->count - at < chunk ? r->count - at : chunk;
    const char *json, *scores;
    asa_status status = feed(stream, r, at, count, error);
    if (status == ASA_OK && live) status = asa_stream_provisional(stream, &json, error);
    if (status != ASA_OK) return status;
    if (live && (scores = strstr(json, "\"scores\"")) && strcmp(said, scores)) {
      snprintf(said, sizeof(said), "%s", scores);
      fprintf(stderr, "%s\n", json);
    }
  }
  return asa_stream_finish(stream, result, error);
}

int main(int argc, char** argv) {
  asa_options options = {sizeof(options), 0, NULL};
  const char* text = NULL;
  int chunk_ms = 100, live = 0, at = 1;
  for (; at < argc && !strncmp(argv[at], "--", 2); ++at) {
    const char* name = argv[at];
    if (!strcmp(name, "--live")) {
      live = 1;
      continue;
    }
    if (at + 1 == argc) break;
    if (!strcmp(name, "--chunk-ms")) {
      chunk_ms = atoi(argv[++at]);
    } else if (!strcmp(name, "--threads")) {
      options.threads = atoi(argv[++at]);
    } else if (!strcmp(name, "--text")) {
      text = argv[++at];
    } else if (!strcmp(name, "--precision")) {
      options.precision = argv[++at];
    } else {
      break;
    }
  }
  if (argc - at != 2 || chunk_ms < 1 || chunk_ms > 3600000) {
    fprintf(stderr,
            "usage: asa-score [--text T] [--chunk-ms N] [--threads N] [--precision P] [--live] "
            "GRADER.asa FILE.wav\n");
    return 2;
  }
  const char *grader_path = argv[at], *path = argv[at + 1];
  recording r = {0};
  FILE* file = fopen(path, "rb");
  if (!file) return fail(path, strerror(errno));
  const char* wrong = read_wav(file, &r);
  fclose(file);
  if (wrong) return fail(path, wrong);

  asa_error error;
  asa_grader* grader = NULL;
  asa_stream* stream = NULL;
  const char* result = NULL;
  asa_status status = asa_grader_open(grader_path, &options, &grader, &error);
  if (!status && text) {
    status = asa_stream_open_text(grader, r.rate_hz, r.channels, text, &stream, &error);
  } else if (!status) {
    status = asa_stream_open(grader, r.rate_hz, r.channels, &stream, &error);
  }
  if (!status) status = score(stream, &r, 16 * (size_t)chunk_ms, live, &result, &error);
  if (status) {
    fail(status == ASA_ERROR_FILE ? grader_path : path, error.message);
  } else {
    puts(result);
  }
  asa_stream_close(&stream);
  asa_grader_close(&grader);
  free(r.samples);
  return status ? 1 : 0;
}
