// One reading of a text on its way from windows to words: planned before it is heard, judged at its
// end or so far.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reading_model.h"

namespace asa {

struct JudgedPhone {
  int symbol;
  double score;  // 0 to 2
  Span span;
  int heard = 0;  // class of the phone that was said in its place, where it was poor
};

struct JudgedWord {
  std::string text;
  const char* error = "none";
  std::optional<double> confidence;
  std::optional<Span> span;     // frames; none where the word was left out
  std::optional<double> score;  // 0 to 10; none of what is not of the text
  std::optional<double> sd;
  std::vector<JudgedPhone> phones;
};

struct ReadingGrade {
  std::vector<float> scores;           // of each aspect
  double seconds = 0;                  // of speech
  std::optional<double> completeness;  // 0 to 10, from graders that look for omissions
  Pace pace{};
  std::vector<JudgedWord> words;
  bool is_scorable = true;
  std::vector<const char*> reasons;  // why not, and what else is to be known
};

class Reading {
 public:
  // Throws TextError.
  Reading(const ReadingModel& grader, const ReadingConfig& config, std::string_view text);

  // Takes the next samples that are heard, and, of each window, its log-mel.
  void push(const float* samples, std::size_t count);
  void take(const float* mel, int mel_frames);

  // Whether it is longer than the grader takes.
  bool is_too_long() const { return samples_ > config_.most_samples; }

  // The grade of all that was heard; none where no window was.
  std::optional<ReadingGrade> finish() const;
  // That of the words passed so far; none before the first.
  std::optional<ReadingGrade> provisional() const;

 private:
  // Words that the decoder hears at once, and their frames.
  struct Group {
    Span words, frames;
  };
  struct Tokens {
    std::vector<int> ids, owners;  // the word of each
  };

  // What is judged of a text that was read again: one reading, and the words of the others.
  struct Chosen {
    Span frames;
    std::vector<JudgedWord> others;
  };

  Heard heard() const;
  Chosen only_reading(const Table& phones) const;
  void add_others(Chosen chosen, ReadingGrade& grade) const;
  Tokens tokens_of(Span words) const;
  std::optional<ReadingGrade> judge(Heard heard, int words, bool is_final) const;
  std::vector<Group> groups_of(const Segments& segments, const Tokens& tokens, int length) const;
  Written write(const Heard& heard, const Segments& segments,
                const std::vector<Group>& groups) const;
  void add_leaps(const Tokens& tokens, const ReadingModel::Forced& forced,
                 std::vector<float>& to) const;
  ReadingGrade feedback(const Heard& heard, const Segments& segments, const Described& described,
                        const Written& written, const Judged& judged) const;
  JudgedWord word(int index, const Segments& segments, const Described& described,
                  const Judged& judged, double omitted) const;
  JudgedWord inserted(int gap, Span frames, double odds, const Heard& heard,
                      const Segments& segments) const;

  const ReadingModel& grader_;
  const ReadingConfig& config_;
  std::vector<SpokenWord> words_;
  mutable std::map<std::vector<int>, std::vector<float>> quiet_;  // of tokens, over silence
  std::size_t samples_ = 0;
  std::vector<double> power_;  // sums of squares of each frame's samples
  Table frames_;
  std::vector<double> moments_;
};

}  // namespace asa
