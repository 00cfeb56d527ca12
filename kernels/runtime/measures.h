// What the scores of a reading rest on: numbers of each phone, each word and the whole, as
// asa_engine/graders/pronunciation/measures.py and describe.py have them.
#pragma once

#include <cstdint>
#include <vector>

#include "alignment.h"
#include "table.h"

namespace asa {

inline constexpr double kFramesPerSecond = 50;
inline constexpr int kPhoneScalars = 30, kPhoneJudged = 22, kWordScalars = 34;
inline constexpr int kReadingNumbers = 6 * kPhoneJudged + 6 * kWordScalars + 16;
inline constexpr int kBeside = 6, kGapScalars = 21;
inline constexpr int kWordAsked = 2 * kWordScalars + 2 * kBeside + 3;

// A recording as the encoder and the phone layer heard it.
struct Heard {
  Table frames;               // of the last two layers side by side, [T][2 D]
  Table phones;               // log-probabilities of silence and the phones, [T][classes]
  std::vector<float> levels;  // dB, of each frame
};

// A text laid over a recording.
struct Segments {
  Sounds sounds;
  std::vector<Span> spans;       // of each phone
  std::vector<int> starts;       // first phone of each word, and the number of phones
  std::vector<Span> word_spans;  // of each word

  Segments(Sounds of, std::vector<Span> where);
  int phones() const { return static_cast<int>(spans.size()); }
  int words() const { return static_cast<int>(word_spans.size()); }
};

// What the decoder said of a text while it was made to write it, of each token and, last, its end.
struct Written {
  std::vector<float> own, best, rank, entropy, quiet, att_entropy, att_peak;
  std::vector<double> before, behind;  // of what a token attends, the share beside its word
  std::vector<int> owners;             // word of each token, without the end
  std::vector<float> leaps;            // of each word: the decoder would rather write the next one

  // First token of each word, and the number of tokens.
  std::vector<int> starts() const;
};

// A reading in numbers.
struct Described {
  Table phones, posteriors, frames;  // of each phone: scalars, mean posteriors, mean frame
  Table words;
  std::vector<float> reading;
};

// usual: mean and deviation of each class's log length, [classes][2].
Described describe(const Heard& heard, const Segments& segments, double fit, const Written& written,
                   const Table& usual);

// Of each word, for whether it was said, [W][kWordAsked].
Table describe_words(const Heard& heard, const Segments& segments, const Described& described,
                     const Written& written);

// Of what lies before each word and after the last, [W + 1][kGapScalars].
Table describe_gaps(const Heard& heard, const Segments& segments, const Described& described,
                    const Written& written);

// Seconds, and pace and pauses in units that a teacher can read.
double speech_s(const Segments& segments);
struct Pace {
  double speech_s, sounds_per_s, pauses, pauses_s, longest_pause_s, words_per_minute;
};
Pace pace(const Segments& segments);

}  // namespace asa
