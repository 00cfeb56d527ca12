// Which frames are whose: a text's phones laid over the frames of a recording.
#pragma once

#include <optional>
#include <vector>

#include "phones.h"
#include "spoken_text.h"
#include "table.h"

namespace asa {

struct Span {
  int first, last;  // the frame after the last
  int frames() const { return last - first; }
};

struct Alignment {
  std::vector<Span> spans;  // of each phone
  double fit = 0;           // mean over the phones' frames of log p(phone) - max log p
  double score = 0;         // log-probability of the whole path
};

// The sounds of a text, of each word one pronunciation.
struct Sounds {
  std::vector<int> symbols, classes, owners, stress;

  void add(const Pronunciation& said, int owner);
};

// Lays phones over the frames from `first` to before `last`, as
// asa_engine/features/phone_alignment.py: heard [T][classes], words[i] the word of phones[i]. None
// where there are fewer frames than phones of a whole text. Throws AudioError, in `heard` there is
// NaN, or frames times phones are too many.
std::optional<Alignment> align(const Table& heard, Span frames, const std::vector<int>& phones,
                               const std::vector<int>& words, bool whole = true);

// A text's sounds and where they lie; of a word's pronunciations the likeliest there is taken.
struct Laid {
  Sounds sounds;
  Alignment alignment;
};
std::optional<Laid> lay(const Table& heard, const std::vector<SpokenWord>& words,
                        bool whole = true);

// The likeliest run of phones where no text is known, silence left out.
std::vector<Span> phone_run(const Table& heard);

}  // namespace asa
