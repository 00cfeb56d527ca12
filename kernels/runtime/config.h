// What a grader file says of its grader: everything but the weights.
#pragma once

#include <string>
#include <utility>
#include <vector>

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

  // Holds a score to the scale.
  double held(double value) const;
  std::string level_of(double value) const;
  // Linear between entries, flat outside; `sd` must hold some.
  double sd_at(double duration_s) const;
};

struct GraderConfig {
  // Who made the file, for receipts.
  std::string bundle, bundle_version, bundle_sha256, engine_version;
  std::string grader, precision;
  EncoderShape encoder{};
  HeadShape head{};
  int window_samples = 0, min_window_samples = 0;
  bool pad_to_window = false;
  Front front = Front::whole;
  std::vector<double> prior_levels;
  std::vector<Aspect> aspects;
};

}  // namespace asa
