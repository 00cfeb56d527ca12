#include "alignment.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "asa/viterbi.h"
#include "cursor.h"

namespace asa {
namespace {

constexpr int kMargin = 4;  // frames around a word in which its pronunciations are compared
constexpr std::size_t kAlternatives = 6;
constexpr std::size_t kMostSteps = std::size_t{1} << 30;
constexpr double kSwitch = 2;  // what a change of phone costs, nats

std::optional<Alignment> align(const Table& heard, const Sounds& sounds, bool whole) {
  return align(heard, {0, heard.rows}, sounds.classes, sounds.owners, whole);
}

double likelihood(const Table& heard, Span frames, const Pronunciation& said) {
  Sounds sounds;
  sounds.add(said, 0);
  const auto found = align(heard, frames, sounds.classes, sounds.owners);
  return found ? found->score : -std::numeric_limits<double>::infinity();
}

Sounds sounds_of(const std::vector<const Pronunciation*>& chosen) {
  Sounds sounds;
  for (std::size_t i = 0; i < chosen.size(); ++i) sounds.add(*chosen[i], static_cast<int>(i));
  return sounds;
}

}  // namespace

void Sounds::add(const Pronunciation& said, int owner) {
  for (const int symbol : said) {
    symbols.push_back(symbol);
    classes.push_back(symbol_class(symbol));
    owners.push_back(owner);
    stress.push_back(symbol_stress(symbol));
  }
}

std::optional<Alignment> align(const Table& heard, Span frames, const std::vector<int>& phones,
                               const std::vector<int>& words, bool whole) {
  const int count = static_cast<int>(phones.size()), length = frames.frames();
  if (count == 0 || length < 1 || (whole && length < count)) return std::nullopt;
  // A silence may be passed over, the phones beside it may not.
  std::vector<std::int32_t> classes = {0};
  std::vector<std::uint8_t> is_silence = {1};
  for (int i = 0; i < count; ++i) {
    if (i && words[i] != words[i - 1]) {
      classes.push_back(0);
      is_silence.push_back(1);
    }
    classes.push_back(phones[i]);
    is_silence.push_back(0);
  }
  classes.push_back(0);
  is_silence.push_back(1);
  if (static_cast<std::size_t>(length) * classes.size() > kMostSteps) {
    throw TextError("the text and the recording are too long; judge it paragraph by paragraph");
  }
  const Path path = viterbi(heard[frames.first], length, heard.cols, classes, is_silence, whole);
  if (path.states.empty()) return std::nullopt;
  Alignment found;
  found.score = path.score;
  int spoken = 0;
  double lost = 0;
  for (int frame = 0, state = -1; frame < length; ++frame) {
    if (is_silence[path.states[frame]]) continue;
    if (path.states[frame] != state) found.spans.push_back({frame, frame});
    state = path.states[frame];
    found.spans.back().last = frame + 1;
    const float* const row = heard[frames.first + frame];
    lost += double{row[classes[state]]} - largest(row, heard.cols);
    ++spoken;
  }
  if (!spoken) return std::nullopt;
  found.fit = lost / spoken;
  return found;
}

std::optional<Laid> lay(const Table& heard, const std::vector<SpokenWord>& words, bool whole) {
  std::vector<const Pronunciation*> chosen;
  for (const SpokenWord& word : words) chosen.push_back(&word.pronunciations[0]);
  Sounds sounds = sounds_of(chosen);
  auto found = align(heard, sounds, whole);
  if (!found) return std::nullopt;
  const int laid = static_cast<int>(found->spans.size());
  bool is_changed = false;
  for (int first = 0; first < laid;) {
    const int index = sounds.owners[first];
    const int end = std::min(first + static_cast<int>(chosen[index]->size()), laid);
    const auto& all = words[index].pronunciations;
    if (all.size() > 1) {
      const Span part = {std::max(found->spans[first].first - kMargin, 0),
                         std::min(found->spans[end - 1].last + kMargin, heard.rows)};
      const Pronunciation* best = nullptr;
      double most = 0;
      for (std::size_t i = 0; i < std::min(all.size(), kAlternatives); ++i) {
        const double likely = likelihood(heard, part, all[i]);
        if (!best || likely > most) {
          best = &all[i];
          most = likely;
        }
      }
      is_changed |= *best != *chosen[index];
      chosen[index] = best;
    }
    first = end;
  }
  if (is_changed) {
    Sounds others = sounds_of(chosen);
    if (auto again = align(heard, others, whole)) return Laid{std::move(others), std::move(*again)};
  }
  return Laid{std::move(sounds), std::move(*found)};
}

std::vector<Span> phone_run(const Table& heard) {
  const int length = heard.rows, count = heard.cols;
  std::vector<double> best(heard[0], heard[0] + count);
  std::vector<std::int16_t> from(static_cast<std::size_t>(length) * count);
  for (int frame = 1; frame < length; ++frame) {
    const int top = static_cast<int>(std::max_element(best.begin(), best.end()) - best.begin());
    const double changed = best[top] - kSwitch;
    std::int16_t* const step = from.data() + static_cast<std::size_t>(frame) * count;
    for (int c = 0; c < count; ++c) {
      step[c] = static_cast<std::int16_t>(best[c] >= changed ? c : top);
      best[c] = std::max(best[c], changed) + heard[frame][c];
    }
  }
  std::vector<int> path(length);
  int state = static_cast<int>(std::max_element(best.begin(), best.end()) - best.begin());
  for (int frame = length - 1; frame >= 0; --frame) {
    path[frame] = state;
    state = from[static_cast<std::size_t>(frame) * count + state];
  }
  std::vector<Span> spans;
  for (int frame = 0, before = -1; frame < length; ++frame) {
    if (path[frame] != before && path[frame]) spans.push_back({frame, frame});
    before = path[frame];
    if (before) spans.back().last = frame + 1;
  }
  return spans;
}

double percentile(std::vector<float>& values, double percent) {
  check_numbers(values);
  std::sort(values.begin(), values.end());
  const double place = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

float largest(const float* values, int count, int but, int but_too) {
  float found = -std::numeric_limits<float>::infinity();
  for (int i = 0; i < count; ++i) {
    if (i != but && i != but_too) found = std::max(found, values[i]);
  }
  return found;
}

void check_numbers(const std::vector<float>& values) {
  const auto finite = [](float value) { return std::isfinite(value); };
  if (!std::all_of(values.begin(), values.end(), finite)) {
    throw FileError("the grader gives what is no number: its weights are broken; export it again");
  }
}

}  // namespace asa
