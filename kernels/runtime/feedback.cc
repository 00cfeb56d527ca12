// From what was judged to what a learner reads, as asa_engine/graders/pronunciation/feedback.py.
#include <algorithm>
#include <cmath>

#include "reading.h"

namespace asa {
namespace {

constexpr double kWordMost = 10, kPhoneMost = 2;
constexpr double kRepeatedFit = -2;
constexpr double kNever = 30;      // the limit of a verdict that a checkpoint was not trained for
constexpr int kLeastInserted = 5;  // frames
constexpr double kRootTwo = 1.4142135623730951;

double probability(double log_odds) {
  return 1 / (1 + std::exp(-std::clamp(log_odds, -30.0, 30.0)));
}

// How likely the experts' score lies below a limit.
double below(double value, double limit, const std::optional<double>& sd) {
  const double width = sd && *sd != 0 ? *sd : 1;
  return 0.5 * (1 + std::erf((limit - value) / (kRootTwo * width)));
}

}  // namespace

ReadingGrade Reading::feedback(const Heard& heard, const Segments& segments,
                               const Described& described, const Written& written,
                               const Judged& judged) const {
  const Thresholds& limits = config_.thresholds;
  ReadingGrade grade;
  grade.pace = pace(segments);
  grade.seconds = speech_s(segments);
  grade.scores = judged.scores;
  Table whole(1, kReadingNumbers);
  whole.values = described.reading;
  if (grader_.mismatch().log_odds(whole)[0] > limits.mismatch) {
    grade.reasons.push_back("text_mismatch");
    grade.is_scorable = false;
  }
  const auto omitted =
      grader_.omission().log_odds(describe_words(heard, segments, described, written));
  const auto odds =
      grader_.insertion().log_odds(describe_gaps(heard, segments, described, written));
  int left_out = 0, from = 0;
  const int words = segments.words();
  for (int gap = 0; gap <= words; ++gap) {
    const int to = gap < words ? segments.word_spans[gap].first : heard.phones.rows;
    if (odds[gap] > limits.insertion) {
      grade.words.push_back(inserted(gap, {from, to}, odds[gap], heard, segments));
    }
    if (gap == words) break;
    grade.words.push_back(word(gap, segments, described, judged, omitted[gap]));
    left_out += !grade.words.back().span;
    from = segments.word_spans[gap].last;
  }
  if (limits.omission < kNever)
    grade.completeness = kWordMost * (1 - static_cast<double>(left_out) / words);
  return grade;
}

JudgedWord Reading::word(int index, const Segments& segments, const Described& described,
                         const Judged& judged, double omitted) const {
  const Thresholds& limits = config_.thresholds;
  JudgedWord found;
  found.text = words_[index].text;
  const double gone = probability(omitted - limits.omission);
  if (omitted > limits.omission) {
    found.error = "omission";
    found.score = 0;
    found.confidence = rounded(gone, 3);
    return found;
  }
  const double value = std::clamp(double{judged.words[index]}, 0.0, kWordMost);
  if (!config_.word_sd.empty()) found.sd = rounded(table_at(config_.word_sd, value), 3);
  const double wrong = below(value, limits.mispronounced, found.sd);
  const bool is_wrong = value < limits.mispronounced;
  found.error = is_wrong ? "mispronunciation" : "none";
  found.confidence = rounded((is_wrong ? wrong : 1 - wrong) * (1 - gone), 3);
  found.score = value;
  found.span = segments.word_spans[index];
  for (int p = segments.starts[index]; p < segments.starts[index + 1]; ++p) {
    JudgedPhone phone{segments.sounds.symbols[p],
                      std::clamp(double{judged.phones[p]}, 0.0, kPhoneMost), segments.spans[p]};
    const float* const shares = described.posteriors[p];
    const int likeliest =
        static_cast<int>(std::max_element(shares + 1, shares + kClasses) - shares);
    const bool is_other = likeliest != segments.sounds.classes[p];
    if (phone.score < limits.poor_phone && is_other) phone.heard = likeliest;
    found.phones.push_back(phone);
  }
  return found;
}

// What was said in a gap and is not in the text: the word before it once more, or something else.
JudgedWord Reading::inserted(int gap, Span frames, double odds, const Heard& heard,
                             const Segments& segments) const {
  int first = -1, last = 0, count = 0;
  for (int t = frames.first; t < frames.last; ++t) {
    if (!(1 - std::exp(heard.phones[t][0]) > 0.5f)) continue;
    if (first < 0) first = t;
    last = t + 1;
    ++count;
  }
  if (count >= kLeastInserted) frames = {first, last};
  JudgedWord found;
  found.text.assign(1, '?');
  found.error = "insertion";
  if (gap) {
    std::vector<int> classes;
    for (int p = segments.starts[gap - 1]; p < segments.starts[gap]; ++p) {
      classes.push_back(segments.sounds.classes[p]);
    }
    const auto again = align(heard.phones, frames, classes, std::vector<int>(classes.size(), 0));
    if (again && again->fit > kRepeatedFit) {
      found.text = words_[gap - 1].text;
      found.error = "repetition";
    }
  }
  frames.last = std::max(frames.first, frames.last);
  found.span = frames;
  found.confidence = rounded(probability(odds - config_.thresholds.insertion), 3);
  return found;
}

}  // namespace asa
