/* libasa: scores a learner's spoken English on the device, while it is spoken.
 *
 *   asa_error error;
 *   asa_grader *grader = NULL;
 *   asa_stream *stream = NULL;
 *   const char *result = NULL;
 *   if (asa_grader_open("grader.asa", NULL, &grader, &error) ||
 *       asa_stream_open(grader, 16000, 1, &stream, &error)) { puts(error.message); exit(1); }
 *   while (more) asa_stream_feed_i16(stream, samples, count, &error);
 *   if (!asa_stream_finish(stream, &result, &error)) puts(result);
 *   asa_stream_close(&stream);
 *   asa_grader_close(&grader);
 *
 * Errors. A function that can fail returns 0 (ASA_OK) or an asa_status, and writes one line that
 * says what is wrong and what to do into `error`, which may be NULL. No exception leaves the
 * library, and nothing is printed. A call that failed has changed nothing, but for
 * ASA_ERROR_MEMORY and ASA_ERROR_INTERNAL in a stream, which is then good for closing only.
 *
 * Threads. A grader may be shared by any number of threads; their windows take turns. A stream
 * belongs to one thread at a time: a second one that calls meanwhile gets ASA_ERROR_BUSY. Closing
 * is the caller's to order: nobody may use a handle while or after it is closed. A grader that is
 * closed lives on until its last stream is.
 *
 * State. There is none outside the handles. Of the environment, ASA_CPU_ISA is read once: it
 * names the instruction set to use.
 *
 * Results are JSON, as `asa-engine assess --json` prints them; every text is UTF-8.
 */
#ifndef ASA_H
#define ASA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(ASA_STATIC)
#define ASA_API
#elif defined(_WIN32) && defined(ASA_BUILD)
#define ASA_API __declspec(dllexport)
#elif defined(_WIN32)
#define ASA_API __declspec(dllimport)
#else
#define ASA_API __attribute__((visibility("default")))
#endif

/* Raised when a program must be compiled anew. */
#define ASA_ABI_VERSION 1

#define ASA_SAMPLE_RATE_HZ 16000

typedef enum asa_status {
  ASA_OK = 0,
  ASA_ERROR_ARGUMENT = 1, /* a null pointer, an option out of range */
  ASA_ERROR_ORDER = 2,    /* fed after its end; finished without a sample */
  ASA_ERROR_AUDIO = 3,    /* a rate or channel count that is not taken, NaN, too long */
  ASA_ERROR_FILE = 4,     /* a grader file that is missing, damaged, or of a newer version */
  ASA_ERROR_MEMORY = 5,   /* out of memory */
  ASA_ERROR_BUSY = 6,     /* another thread is in a call on this stream */
  ASA_ERROR_DEVICE = 7,   /* ASA_CPU_ISA names an instruction set that is not here */
  ASA_ERROR_INTERNAL = 8, /* a fault of this library */
  ASA_ERROR_TEXT = 9      /* a text that cannot be read, is missing, or is of no use here */
} asa_status;

typedef struct asa_error {
  asa_status status;
  char message[248]; /* one line, without its newline; cut where it is longer */
} asa_error;

typedef struct asa_grader asa_grader; /* a grader file, opened */
typedef struct asa_stream asa_stream; /* one recording on its way to its scores */

/* How a grader runs. Set size = sizeof(asa_options) and all that is not known to 0. */
typedef struct asa_options {
  size_t size;
  int threads;           /* 1 to 256 that a window may use; 0: 1 */
  const char* precision; /* "fp32", "bf16" or "int8"; NULL: the file's */
} asa_options;

/* Version of the library, such as "0.1.0", and ASA_ABI_VERSION it was built with. */
ASA_API const char* asa_version(void);
ASA_API int asa_abi_version(void);

/* Name of a status, such as "audio". */
ASA_API const char* asa_status_name(asa_status status);

/* Opens the file that `asa-engine export ... --target device` wrote, and checks all of it. The
 * file is not used any more once this returns. `options` may be NULL. On failure *grader is NULL.
 */
ASA_API asa_status asa_grader_open(const char* path, const asa_options* options,
                                   asa_grader** grader, asa_error* error);

/* The same of a file that is in memory; nothing of it is used any more once this returns. */
ASA_API asa_status asa_grader_open_bytes(const void* bytes, size_t size, const asa_options* options,
                                         asa_grader** grader, asa_error* error);

/* What the grader is and how it runs, as JSON; lives as long as the grader. NULL of NULL. */
ASA_API const char* asa_grader_describe(const asa_grader* grader);

/* Closes *grader and sets it to NULL; does nothing where either is NULL already. */
ASA_API void asa_grader_close(asa_grader** grader);

/* Starts a recording: `sample_rate_hz` must be 16000 and `channels` 1. On failure *stream is NULL.
 */
ASA_API asa_status asa_stream_open(asa_grader* grader, int sample_rate_hz, int channels,
                                   asa_stream** stream, asa_error* error);

/* The same for a grader that judges the reading of a text, UTF-8, which is used no more once this
 * returns: words and punctuation of English, at most 1,500. What is read in other words than it is
 * written in (digits, currencies, addresses) is refused by name.
 */
ASA_API asa_status asa_stream_open_text(asa_grader* grader, int sample_rate_hz, int channels,
                                        const char* text, asa_stream** stream, asa_error* error);

/* Takes the next samples, as many as there are, and does the work that they make final. Floats
 * have full scale 1.0. How a recording is cut into calls changes no bit of its result.
 */
ASA_API asa_status asa_stream_feed_f32(asa_stream* stream, const float* samples, size_t count,
                                       asa_error* error);
ASA_API asa_status asa_stream_feed_i16(asa_stream* stream, const int16_t* samples, size_t count,
                                       asa_error* error);

/* Scores of the speech so far: {"audio_s": ..., "scores": {...}}, the scores empty before the first
 * window is full; of a text the words passed by then, too, in "words". *json lives until the next
 * call on the stream.
 */
ASA_API asa_status asa_stream_provisional(asa_stream* stream, const char** json, asa_error* error);

/* Ends the recording; *json is its assessment and lives until the next call on the stream. Called
 * again, it gives the same one. A recording that cannot be judged (silence, noise) is no error:
 * its "validity" says why, and "scores" is empty.
 */
ASA_API asa_status asa_stream_finish(asa_stream* stream, const char** json, asa_error* error);

/* Closes *stream and sets it to NULL; does nothing where either is NULL already. */
ASA_API void asa_stream_close(asa_stream** stream);

#ifdef __cplusplus
}
#endif
#endif
