// What a grader file says of its grader: everything but the weights.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "asa/decoder.h"
#include "asa/encoder.h"
#include "asa/head.h"

namespace asa {

// What stands between the samples and the grader.
enum class Front {
  whole = 0,     // nothing
  levelled = 1,  // speech and its surroundings alone, behind the high-pass, at one level
  gated = 2,     // speech and its surroundings alone, as they are but for an offset
};

struct Aspect {
  std::string name;
  double scale_min = 0, scale_max = 0;
  std::vector<double> level_cuts;
  std::vector<std::string> level_names;       // none, or one more than there are cuts
  std::vector<std::pair<double, double>> sd;  // seconds of speech, expected error
  // Score, factor on the expected error: low scores are less sure than high ones.
  std::vector<std::pair<double, double>> sd_by_score;

  // Holds a score to the scale.
  double held(double value) const;
  std::string level_of(double value) const;
  // Of a score of so much speech; `sd` must hold some.
  double sd_of(double value, double duration_s) const;
};

// A table's value: linear between entries, flat outside; it must hold some.
double table_at(const std::vector<std::pair<double, double>>& table, double x);

// To so many decimals, as Python rounds.
double rounded(double value, int decimals);

// Where a number becomes a verdict; asa_engine.graders.pronunciation.config says which.
struct Thresholds {
  double mismatch = 0, omission = 0, insertion = 0, mispronounced = 0, poor_phone = 0;
};

// The transformer over phones, several seeds of it, and its kernel regressor.
struct JudgeShape {
  int heads = 0, seeds = 0, width = 0, layers = 0, inner = 0;
  int directions = 0, pooled = 0, net_pooled = 0;  // of a phone's frames, of all, and of these
  int centres = 0, score_hidden = 0, word_hidden = 0, aspects = 0;
};

// What a grader of readings has beside its encoder.
struct ReadingConfig {
  DecoderShape decoder{};
  std::vector<int> alignment_heads;  // layer * heads + head
  int phone_hidden = 0, verdict_hidden = 0;
  JudgeShape judge;
  std::size_t most_samples = 0;  // of a read text
  Thresholds thresholds;
  std::vector<std::pair<double, double>> word_sd;  // a word's score, its expected error
};

struct GraderConfig {
  // Who made the file, for receipts.
  std::string bundle, bundle_version, bundle_sha256, engine_version;
  std::string grader, precision;
  EncoderShape encoder{};
  HeadShape head{};                      // of acoustic graders
  std::optional<ReadingConfig> reading;  // of graders that judge the reading of a text
  int window_samples = 0, min_window_samples = 0;
  bool pad_to_window = false;
  Front front = Front::whole;
  std::vector<double> prior_levels;
  std::vector<Aspect> aspects;
};

}  // namespace asa
