// What is asked of each word, whether it was said, and of each gap, whether a word was said there.
#include <algorithm>
#include <cmath>

#include "measures.h"

namespace asa {
namespace {

constexpr float kLoose = 2;  // what a frame of any phone costs between words, nats
constexpr double kMostGain = 20;
// Columns of the words' numbers; asa_engine's WORD_SCALARS names them.
constexpr int kOwnMean = 21, kOwnMin = 22, kDistanceMin = 26, kLengthMean = 27, kGainMean = 4;
constexpr int kLogFrames = 29, kAttInside = 7, kLength = 13;
constexpr int kSeenBeside[kBeside] = {kOwnMean,    kOwnMin,   kDistanceMin,
                                      kLengthMean, kGainMean, kLogFrames};

// How much likelier the frames from each word's neighbours to it are without it, nats a phone.
std::vector<float> gains_without(const Heard& heard, const Segments& segments) {
  const int words = segments.words();
  std::vector<float> found(words);
  if (words == 1) return found;
  std::vector<int> path(heard.phones.rows);
  for (int p = 0; p < segments.phones(); ++p) {
    const Span span = segments.spans[p];
    std::fill(path.begin() + span.first, path.begin() + span.last, segments.sounds.classes[p]);
  }
  std::vector<double> sums = {0};
  for (std::size_t t = 0; t < path.size(); ++t) {
    sums.push_back(sums.back() + heard.phones[static_cast<int>(t)][path[t]]);
  }
  for (int word = 0; word < words; ++word) {
    const Span around = {segments.word_spans[std::max(word - 1, 0)].first,
                         segments.word_spans[std::min(word + 1, words - 1)].last};
    std::vector<int> classes, owners;
    for (const int beside : {word - 1, word + 1}) {
      if (beside < 0 || beside >= words) continue;
      for (int p = segments.starts[beside]; p < segments.starts[beside + 1]; ++p) {
        classes.push_back(segments.sounds.classes[p]);
        owners.push_back(beside);
      }
    }
    const int own = segments.starts[word + 1] - segments.starts[word];
    if (const auto other = align(heard.phones, around, classes, owners)) {
      const double gain = (other->score - (sums[around.last] - sums[around.first])) / own;
      found[word] = static_cast<float>(std::clamp(gain, -kMostGain, kMostGain));
    }
  }
  return found;
}

// Where each gap begins and ends: before the first word, between words, after the last.
std::vector<Span> gaps_of(const Segments& segments, int length) {
  std::vector<Span> gaps = {{0, 0}};
  for (const Span word : segments.word_spans) {
    gaps.back().last = word.first;
    gaps.push_back({word.last, 0});
  }
  gaps.back().last = length;
  return gaps;
}

}  // namespace

Table describe_words(const Heard& heard, const Segments& segments, const Described& described,
                     const Written& written) {
  const int words = segments.words();
  Table table(words, kWordAsked);
  std::vector<float> middles;
  for (int c = 0; c < kWordScalars; ++c) {
    std::vector<float> column;
    for (int w = 0; w < words; ++w) column.push_back(described.words[w][c]);
    middles.push_back(static_cast<float>(percentile(column, 50)));
  }
  const std::vector<float> gains = gains_without(heard, segments);
  const std::vector<int> tokens = written.starts();
  for (int w = 0; w < words; ++w) {
    float* row = table[w];
    for (int c = 0; c < kWordScalars; ++c) *row++ = described.words[w][c];
    for (int c = 0; c < kWordScalars; ++c) *row++ = described.words[w][c] - middles[c];
    for (const int beside : {w - 1, w + 1}) {
      const bool is_there = beside >= 0 && beside < words;
      for (const int c : kSeenBeside) *row++ = is_there ? described.words[beside][c] : 0;
    }
    const int first = tokens[w];
    *row++ = written.leaps[w];
    *row++ = written.leaps[w] * (written.best[first] - written.own[first]);
    *row = gains[w];
  }
  return table;
}

Table describe_gaps(const Heard& heard, const Segments& segments, const Described& described,
                    const Written& written) {
  const int words = segments.words(), length = heard.phones.rows, classes = heard.phones.cols;
  // Laid once more, with any phone between words: speech beyond the text has a place to go.
  Table loose = heard.phones;
  for (int t = 0; t < length; ++t) {
    loose[t][0] = std::max(loose[t][0], largest(heard.phones[t], classes, 0) - kLoose);
  }
  auto found = align(loose, {0, length}, segments.sounds.classes, segments.sounds.owners);
  const Segments again(segments.sounds, found ? found->spans : segments.spans);
  const std::vector<Span> gaps = gaps_of(again, length), plain = gaps_of(segments, length);
  const std::vector<Span> run = phone_run(heard.phones);
  std::vector<float> levels = heard.levels;
  const double reference = percentile(levels, 75);
  Table table(words + 1, kGapScalars);
  for (int g = 0; g <= words; ++g) {
    float* const row = table[g];
    const Span gap = gaps[g];
    double spoken = 0, loudest = -1e30;
    for (int t = gap.first; t < gap.last; ++t) {
      spoken += 1 - std::exp(double{heard.phones[t][0]});
      loudest = std::max(loudest, double{heard.levels[t]});
    }
    const auto inside = std::count_if(run.begin(), run.end(), [&](Span span) {
      const int twice = span.first + span.last;
      return twice > 2 * gap.first && twice < 2 * gap.last;
    });
    row[0] = static_cast<float>(std::log1p(gap.frames()));
    row[1] = static_cast<float>(std::log1p(spoken));
    row[2] = static_cast<float>(gap.frames() > 0 ? loudest - reference : -40);
    row[3] = static_cast<float>(std::log1p(inside));
    row[4] = static_cast<float>(std::log1p(plain[g].frames()));
    row[5] = static_cast<float>(g == 0);
    row[6] = static_cast<float>(g == words);
    const auto beside = [&](int word, int phone, float* to) {
      const float* const numbers = described.words[word];
      for (const int c : {kDistanceMin, kLengthMean, kOwnMean, kGainMean}) *to++ = numbers[c];
      *to++ = described.phones[phone][kLength];
      *to = numbers[kAttInside];
    };
    if (g > 0) beside(g - 1, segments.starts[g] - 1, row + 7);
    if (g < words) beside(g, segments.starts[g], row + 13);
  }
  const std::vector<int> tokens = written.starts();
  for (int g = 0; g <= words; ++g) {
    table[g][19] = written.own[tokens[g]] - written.best[tokens[g]];
    table[g][20] = written.best[tokens[g]];
  }
  return table;
}

}  // namespace asa
