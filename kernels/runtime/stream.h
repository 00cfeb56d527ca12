// One recording on its way from samples to an assessment.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "asa/log_mel.h"
#include "grader.h"
#include "json.h"
#include "reading.h"
#include "sha256.h"
#include "speech_front.h"
#include "speech_track.h"
#include "validity.h"

namespace asa {

// Samples that are not taken, or none at all.
struct AudioError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A call that does not come where it may.
struct OrderError : std::logic_error {
  using std::logic_error::logic_error;
};

// Time by stage, ms.
struct Spent {
  double decode = 0, features = 0, encoder = 0, backbone = 0, head = 0;
};

class Stream {
 public:
  // text: what is read, for graders that judge that; null for the others. Throws TextError.
  Stream(std::shared_ptr<const Grader> grader, const char* text);

  // Samples at 16 kHz; an error leaves the stream as it was. Throw AudioError, OrderError.
  void feed(const float* samples, std::size_t count);
  void feed(const std::int16_t* samples, std::size_t count);

  // JSON that lives until the next call.
  const std::string& provisional();
  const std::string& finish();

 private:
  using Clock = std::chrono::steady_clock;

  // Of the windows so far and what they were heard in, in samples.
  struct Grade {
    HeadOutput output;
    std::size_t samples;
  };

  void check_open(std::size_t count) const;
  void check_length() const;
  void take(const float* samples, std::size_t count);
  void hear(SpeechFrame frame, std::vector<float>& heard);
  void grade(const std::vector<float>& heard);
  void encode();
  Grade grade_of(std::size_t samples);
  const std::optional<ReadingGrade>& so_far();
  void write_scores(JsonWriter& json, const std::vector<float>& scores, double seconds) const;
  void write_score(JsonWriter& json, double value, double most) const;
  void write_reading(JsonWriter& json, const ReadingGrade& grade) const;
  void write_words(JsonWriter& json, const ReadingGrade& grade) const;
  void write_times(JsonWriter& json, Span frames) const;
  void write_phone(JsonWriter& json, const JudgedPhone& phone) const;
  void write_prior(JsonWriter& json, const std::vector<float>& shares) const;
  std::string assessment(const Validity& validity, const std::optional<Grade>& grade,
                         const std::optional<ReadingGrade>& reading, double time_to_score_ms) const;
  void write_receipt(JsonWriter& json) const;

  std::shared_ptr<const Grader> grader_;
  const GraderConfig& config_;
  InputLevels levels_;
  ValidityMonitor monitor_;
  SpeechTrack track_;
  SpeechFront front_;
  LogMelWindow window_;
  Sha256 sha256_;
  std::vector<double> stats_;  // sums of the windows so far; empty before the first
  std::size_t samples_ = 0;    // fed
  std::size_t heard_ = 0;      // passed on to the grader
  std::size_t encoded_ = 0;    // of them, in closed windows
  std::optional<Grade> asked_;
  std::optional<Reading> reading_;                   // where a text is read
  std::optional<std::optional<ReadingGrade>> read_;  // of it, asked for since the last window
  std::string json_;
  bool is_ending_ = false, is_finished_ = false;
  Spent spent_;
  double tail_ms_ = 0;  // of the last call that fed
};

}  // namespace asa
