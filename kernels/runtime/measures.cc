#include "measures.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "config.h"
#include "cursor.h"

namespace asa {
namespace {

constexpr int kPauseFrames = 8;  // 0.16 s: shorter gaps between words are stops and junctures

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double deviation(const std::vector<double>& values) {
  const double middle = mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - middle) * (value - middle);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

// Adds mean, deviation and four low percentiles of the first `cols` columns.
void add_spread(const Table& table, int cols, std::vector<float>& to) {
  const std::size_t at = to.size();
  to.resize(at + 6 * std::size_t(cols));
  for (int c = 0; c < cols; ++c) {
    std::vector<double> column(table.rows);
    for (int r = 0; r < table.rows; ++r) column[r] = table[r][c];
    std::vector<float> ordered(column.begin(), column.end());
    float* const place = to.data() + at + c;
    place[0] = static_cast<float>(mean(column));
    place[cols] = static_cast<float>(deviation(column));
    int row = 2;
    for (const double percent : {0.0, 10.0, 25.0, 50.0}) {
      place[cols * row++] = static_cast<float>(percentile(ordered, percent));
    }
  }
}

void phone_scalars(const Heard& heard, const Segments& segments, const Table& usual,
                   Described& to) {
  const int count = segments.phones(), classes = heard.phones.cols;
  to.phones = Table(count, kPhoneScalars);
  to.posteriors = Table(count, classes);
  std::vector<float> levels;
  for (const Span span : segments.spans) {
    levels.insert(levels.end(), heard.levels.begin() + span.first,
                  heard.levels.begin() + span.last);
  }
  const double reference = percentile(levels, 75);
  double all_lengths = 0;
  for (int p = 0; p < count; ++p) {
    const Span span = segments.spans[p];
    const int own = segments.sounds.classes[p], word = segments.sounds.owners[p];
    const double frames = span.frames();
    std::vector<double> sums(classes), shares(classes);
    double own_max = -1e30, own_min = 1e30, lead = 0, lead_min = 1e30, distance = 0, entropy = 0;
    double level = 0, peak = -1e30;
    for (int t = span.first; t < span.last; ++t) {
      const float* const row = heard.phones[t];
      const double said = row[own], ahead = said - largest(row, classes, 0, own);
      own_max = std::max(own_max, said);
      own_min = std::min(own_min, said);
      lead += ahead;
      lead_min = std::min(lead_min, ahead);
      distance += said - largest(row, classes);
      for (int c = 0; c < classes; ++c) {
        const double share = std::exp(double{row[c]});
        sums[c] += row[c];
        shares[c] += share;
        entropy -= share * row[c];
      }
      level += heard.levels[t];
      peak = std::max(peak, double{heard.levels[t]});
    }
    std::vector<float> means(classes);
    for (int c = 0; c < classes; ++c) {
      means[c] = static_cast<float>(sums[c] / frames);
      to.posteriors[p][c] = static_cast<float>(shares[c] / frames);
    }
    const double own_mean = sums[own] / frames;
    double around = 0;
    for (int t = span.first; t < span.last; ++t) {
      const double away = heard.phones[t][own] - own_mean;
      around += away * away;
    }
    const auto held = [&](double value) { return std::clamp(value - reference, -40.0, 20.0); };
    level = held(level / frames);
    peak = held(peak);
    const double length = (std::log(frames) - usual[own][0]) / usual[own][1];
    const int first = segments.starts[word], end = segments.starts[word + 1];
    const int stress = segments.sounds.stress[p];
    const double before = p ? span.first - segments.spans[p - 1].last : 0;
    const double after = p + 1 < count ? segments.spans[p + 1].first - span.last : 0;
    all_lengths += length;
    const double columns[kPhoneScalars] = {
        own_mean,
        own_max,
        own_min,
        std::sqrt(around / frames),
        lead / frames,
        lead_min,
        double{means[own]} - largest(means.data(), classes, 0, own),
        distance / frames,
        std::log(shares[own] / frames + 1e-4),
        std::log(shares[0] / frames + 1e-3),
        entropy / frames,
        heard.phones[(span.first + span.last - 1) / 2][own],
        std::log(frames),
        length,
        length,  // without the mean of all, below
        std::log1p(before),
        std::log1p(after),
        level,
        peak,
        peak - level,
        0,  // changes of level, below
        0,
        std::log1p(p - first),
        std::log1p(end - 1 - p),
        std::log(end - first),
        double(p == first),
        double(p == end - 1),
        double(stress == 1),
        double(stress == 0),
        double(stress >= 0)};
    for (int c = 0; c < kPhoneScalars; ++c) to.phones[p][c] = static_cast<float>(columns[c]);
  }
  for (int p = 0; p < count; ++p) {
    float* const row = to.phones[p];
    row[14] = static_cast<float>(row[14] - all_lengths / count);
    if (p) row[20] = row[17] - to.phones[p - 1][17];
    if (p + 1 < count) row[21] = row[17] - to.phones[p + 1][17];
  }
}

void word_scalars(const Segments& segments, const Written& written, Described& to) {
  const std::vector<int> tokens = written.starts();
  const int words = segments.words();
  to.words = Table(words, kWordScalars);
  const auto gain = [&](int i) { return double{written.own[i]} - written.quiet[i]; };
  for (int w = 0; w < words; ++w) {
    float* row = to.words[w];
    const double count = tokens[w + 1] - tokens[w];
    double sums[8] = {}, least[8], before = 0, behind = 0;
    std::fill_n(least, 8, 1e30);
    for (int i = tokens[w]; i < tokens[w + 1]; ++i) {
      const double said[8] = {written.own[i],
                              double{written.own[i]} - written.best[i],
                              -std::log1p(double{written.rank[i]}),
                              -written.entropy[i],
                              gain(i),
                              -written.att_entropy[i],
                              written.att_peak[i],
                              1 - written.before[i] - written.behind[i]};
      for (int k = 0; k < 8; ++k) {
        sums[k] += said[k];
        least[k] = std::min(least[k], said[k]);
      }
      before += written.before[i];
      behind += written.behind[i];
    }
    const auto put = [&](double value) { *row++ = static_cast<float>(value); };
    for (const double sum : sums) put(sum / count);
    for (const double value : least) put(value);
    put(before / count);
    put(behind / count);
    put(std::log(count));
    put(written.own[tokens[w + 1]]);
    put(gain(tokens[w + 1]));
    const int first = segments.starts[w], end = segments.starts[w + 1];
    const double phones = end - first;
    for (const int column : {0, 4, 7, 13}) {  // own, lead, distance, length
      double sum = 0, low = 1e30;
      for (int p = first; p < end; ++p) {
        sum += to.phones[p][column];
        low = std::min(low, double{to.phones[p][column]});
      }
      put(sum / phones);
      put(low);
    }
    const auto& spans = segments.word_spans;
    put(std::log(spans[w].frames()));
    put(std::log(phones));
    put(w ? std::log1p(spans[w].first - spans[w - 1].last) : 0);
    put(w + 1 < words ? std::log1p(spans[w + 1].first - spans[w].last) : 0);
    double energy = 0;
    for (int p = first; p < end; ++p) energy += to.phones[p][17];
    put(energy / phones);
  }
}

std::vector<double> pauses_s(const Segments& segments) {
  std::vector<double> found;
  for (int p = 1; p < segments.phones(); ++p) {
    const int gap = segments.spans[p].first - segments.spans[p - 1].last;
    if (gap >= kPauseFrames) found.push_back(gap / kFramesPerSecond);
  }
  return found;
}

double voiced_s(const Segments& segments) {
  int frames = 0;
  for (const Span span : segments.spans) frames += span.frames();
  return frames / kFramesPerSecond;
}

void reading_numbers(const Segments& segments, double fit, const Written& written, Described& to) {
  add_spread(to.phones, kPhoneJudged, to.reading);
  add_spread(to.words, kWordScalars, to.reading);
  const double speech = speech_s(segments), voiced = voiced_s(segments);
  const double phones = segments.phones(), words = segments.words();
  const std::vector<double> pauses = pauses_s(segments);
  std::vector<double> vowels, changes;
  for (int p = 0; p < segments.phones(); ++p) {
    if (segments.sounds.stress[p] < 0) continue;
    vowels.push_back(std::log(segments.spans[p].frames()));
    if (vowels.size() > 1) changes.push_back(std::fabs(vowels.back() - vowels[vowels.size() - 2]));
  }
  const double longest = pauses.empty() ? 0 : *std::max_element(pauses.begin(), pauses.end());
  const double pausing = std::accumulate(pauses.begin(), pauses.end(), 0.0);
  const auto count = static_cast<double>(pauses.size());
  for (const double number :
       {std::log(phones / speech), std::log(phones / voiced), std::log(speech), voiced / speech,
        std::log1p(count), pausing / speech, std::log1p(longest), count / phones,
        vowels.empty() ? 0 : deviation(vowels), changes.empty() ? 0 : mean(changes),
        std::log(phones), double{written.own.back()}, fit, std::log(words / speech),
        std::log(words), count / words}) {
    to.reading.push_back(static_cast<float>(number));
  }
}

}  // namespace

Segments::Segments(Sounds of, std::vector<Span> where)
    : sounds(std::move(of)), spans(std::move(where)) {
  for (int p = 0; p < phones(); ++p) {
    if (p == 0 || sounds.owners[p] != sounds.owners[p - 1]) {
      starts.push_back(p);
      word_spans.push_back(spans[p]);
    }
    word_spans.back().last = spans[p].last;
  }
  starts.push_back(phones());
}

std::vector<int> Written::starts() const {
  std::vector<int> found;
  for (std::size_t i = 0; i < owners.size(); ++i) {
    if (i == 0 || owners[i] != owners[i - 1]) found.push_back(static_cast<int>(i));
  }
  found.push_back(static_cast<int>(owners.size()));
  return found;
}

Described describe(const Heard& heard, const Segments& segments, double fit, const Written& written,
                   const Table& usual) {
  Described found;
  phone_scalars(heard, segments, usual, found);
  word_scalars(segments, written, found);
  check_numbers(found.phones.values);
  check_numbers(found.words.values);
  reading_numbers(segments, fit, written, found);
  const int width = heard.frames.cols;
  found.frames = Table(segments.phones(), width);
  std::vector<double> sums(width);
  for (int p = 0; p < segments.phones(); ++p) {
    const Span span = segments.spans[p];
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int t = span.first; t < span.last; ++t) {
      for (int i = 0; i < width; ++i) sums[i] += heard.frames[t][i];
    }
    for (int i = 0; i < width; ++i) {
      found.frames[p][i] = static_cast<float>(sums[i] / span.frames());
    }
  }
  return found;
}

double speech_s(const Segments& segments) {
  return (segments.spans.back().last - segments.spans.front().first) / kFramesPerSecond;
}

Pace pace(const Segments& segments) {
  const std::vector<double> pauses = pauses_s(segments);
  const double longest = pauses.empty() ? 0 : *std::max_element(pauses.begin(), pauses.end());
  const double seconds = speech_s(segments);
  return {rounded(seconds, 2),
          rounded(segments.phones() / voiced_s(segments), 2),
          static_cast<double>(pauses.size()),
          rounded(std::accumulate(pauses.begin(), pauses.end(), 0.0), 2),
          rounded(longest, 2),
          rounded(60 * segments.words() / seconds, 1)};
}

}  // namespace asa
