// A text that was read more than once, as asa_engine/graders/pronunciation/again.py: which reading
// is judged, and where the others are.
#include <algorithm>

#include "reading.h"

namespace asa {
namespace {

constexpr double kLeastGain = 4;    // nats a phone
constexpr double kLeastFit = -1.4;  // of the worst reading
constexpr int kMostReadings = 4;

// The sounds of a text laid over frames so many times, one after the other.
std::optional<Alignment> laid(const Table& heard, Span frames, const Sounds& sounds, int times) {
  std::vector<int> classes, owners;
  const int words = sounds.owners.back() + 1;
  for (int time = 0; time < times; ++time) {
    classes.insert(classes.end(), sounds.classes.begin(), sounds.classes.end());
    for (const int owner : sounds.owners) owners.push_back(owner + time * words);
  }
  return align(heard, frames, classes, owners);
}

// The frames between readings, with the first and the one after the last.
std::vector<int> edges_of(const Alignment& alignment, int times, int length) {
  std::vector<int> edges = {0};
  const std::size_t each = alignment.spans.size() / times;
  for (int time = 1; time < times; ++time) {
    const std::size_t at = time * each;
    edges.push_back((alignment.spans[at - 1].last + alignment.spans[at].first) / 2);
  }
  edges.push_back(length);
  return edges;
}

Span later(Span span, int frames) { return {span.first + frames, span.last + frames}; }

}  // namespace

Reading::Chosen Reading::only_reading(const Table& phones) const {
  const Span whole = {0, phones.rows};
  const auto once = lay(phones, words_);
  if (!once) return {whole, {}};
  double score = once->alignment.score;
  std::vector<int> edges = {0, phones.rows};
  for (int times = 2; times <= kMostReadings; ++times) {
    const auto more = laid(phones, whole, once->sounds, times);
    const double least = kLeastGain * static_cast<double>(once->sounds.classes.size());
    if (!more || more->score - score < least) break;
    score = more->score;
    edges = edges_of(*more, times, phones.rows);
  }
  if (edges.size() == 2) return {whole, {}};
  std::vector<Alignment> readings;
  std::size_t kept = 0;
  for (std::size_t i = 0; i + 1 < edges.size(); ++i) {
    auto part = laid(phones, {edges[i], edges[i + 1]}, once->sounds, 1);
    if (!part || part->fit < kLeastFit) return {whole, {}};
    readings.push_back(std::move(*part));
    if (readings[i].fit > readings[kept].fit) kept = i;
  }
  Chosen chosen{{edges[kept], edges[kept + 1]}, {}};
  for (std::size_t i = 0; i < readings.size(); ++i) {
    if (i == kept) continue;
    const Segments segments(once->sounds, readings[i].spans);
    for (int word = 0; word < segments.words(); ++word) {
      JudgedWord& other = chosen.others.emplace_back();
      other.text = words_[word].text;
      other.error = "repetition";
      other.span = later(segments.word_spans[word], edges[i]);
    }
  }
  return chosen;
}

// Moves a reading to where it lies in the recording, between the words of the others.
void Reading::add_others(Chosen chosen, ReadingGrade& grade) const {
  if (chosen.others.empty()) return;
  const int begin = chosen.frames.first;
  for (JudgedWord& word : grade.words) {
    if (word.span) word.span = later(*word.span, begin);
    for (JudgedPhone& phone : word.phones) phone.span = later(phone.span, begin);
  }
  const auto behind = std::find_if(chosen.others.begin(), chosen.others.end(),
                                   [&](const JudgedWord& word) { return word.span->last > begin; });
  grade.words.insert(grade.words.begin(), chosen.others.begin(), behind);
  grade.words.insert(grade.words.end(), behind, chosen.others.end());
  grade.reasons.push_back("text_read_again");
}

}  // namespace asa
