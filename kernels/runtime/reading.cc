#include "reading.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "asa/log_mel.h"

namespace asa {
namespace {

constexpr int kFrameSamples = 2 * kHop;
constexpr double kGroupFrames = 24 * kFramesPerSecond;
constexpr int kGroupTokens = 160, kAround = 3;

Table slice(const Table& table, Span rows) {
  Table found(rows.frames(), table.cols);
  std::copy_n(table[rows.first], found.values.size(), found.values.data());
  return found;
}

Heard slice(Heard heard, Span frames) {
  if (frames.frames() == heard.phones.rows) return heard;
  return {slice(heard.frames, frames),
          slice(heard.phones, frames),
          {heard.levels.begin() + frames.first, heard.levels.begin() + frames.last}};
}

}  // namespace

Reading::Reading(const ReadingModel& grader, const ReadingConfig& config, std::string_view text)
    : grader_(grader), config_(config), words_(grader.reader().read(text)) {
  // Before anything is said, so that it is no part of the time to score.
  const Tokens tokens = tokens_of({0, static_cast<int>(words_.size())});
  if (tokens.ids.size() <= kGroupTokens) quiet_[tokens.ids] = grader_.write_quiet(tokens.ids);
}

void Reading::push(const float* samples, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if ((samples_ + i) % kFrameSamples == 0) power_.push_back(0);
    power_.back() += double{samples[i]} * samples[i];
  }
  samples_ += count;
}

void Reading::take(const float* mel, int mel_frames) {
  grader_.encode(mel, mel_frames, frames_, moments_);
}

Heard Reading::heard() const {
  Heard found{frames_, grader_.phones().run(frames_), {}};
  for (int t = 0; t < frames_.rows; ++t) {
    const double power = static_cast<std::size_t>(t) < power_.size() ? power_[t] : 0;
    found.levels.push_back(static_cast<float>(10 * std::log10(power / kFrameSamples + 1e-9)));
  }
  return found;
}

std::optional<ReadingGrade> Reading::finish() const {
  if (!frames_.rows) return std::nullopt;
  return judge(heard(), static_cast<int>(words_.size()), true);
}

std::optional<ReadingGrade> Reading::provisional() const {
  if (!frames_.rows) return std::nullopt;
  const Heard so_far = heard();
  const auto found = lay(so_far.phones, words_, false);
  if (!found) return std::nullopt;
  const auto& owners = found->sounds.owners;
  const std::size_t last = found->alignment.spans.size();
  const int owner = owners[last - 1];
  const bool is_whole = last == owners.size() || owners[last] != owner;
  const int passed = is_whole ? owner + 1 : owner;
  if (passed == 0) return std::nullopt;
  return judge(so_far, passed, false);
}

// The tokens of words, written as a sentence, and the word of each, counted from the first.
Reading::Tokens Reading::tokens_of(Span words) const {
  Tokens found;
  for (int w = words.first; w < words.last; ++w) {
    std::string written = words_[w].spoken;
    if (written == "i" || written.substr(0, 2) == "i'") written[0] = 'I';
    if (w == words.first && is_lower(written[0])) {
      written[0] = static_cast<char>(written[0] - 'a' + 'A');
    }
    if (w == words.last - 1) written += '.';
    for (const int id : grader_.vocabulary().encode(" " + written)) {
      found.ids.push_back(id);
      found.owners.push_back(w - words.first);
    }
  }
  return found;
}

std::optional<ReadingGrade> Reading::judge(Heard heard, int words, bool is_final) const {
  Chosen chosen{{0, heard.phones.rows}, {}};
  if (is_final) chosen = only_reading(heard.phones);
  heard = slice(std::move(heard), chosen.frames);
  const std::vector<SpokenWord> plan(words_.begin(), words_.begin() + words);
  auto laid = lay(heard.phones, plan);
  if (!laid) {
    if (!is_final) return std::nullopt;
    ReadingGrade grade;
    grade.is_scorable = false;
    grade.reasons.push_back("text_mismatch");
    return grade;
  }
  const double fit = laid->alignment.fit;
  const Segments segments(std::move(laid->sounds), std::move(laid->alignment.spans));
  const std::vector<Group> groups = groups_of(segments, tokens_of({0, words}), heard.phones.rows);
  const Written written = write(heard, segments, groups);
  const Described described = describe(heard, segments, fit, written, grader_.usual());
  std::vector<Span> blocks;
  for (const Group& group : groups) {
    blocks.push_back({segments.starts[group.words.first], segments.starts[group.words.last]});
  }
  const Judged judged = grader_.judge().run(described, segments, moments_, frames_.rows, blocks);
  ReadingGrade grade = feedback(heard, segments, described, written, judged);
  if (is_final && !grade.is_scorable) {
    grade.words.clear();
  } else {
    add_others(std::move(chosen), grade);
  }
  return grade;
}

// Cuts a long reading between words, so that the decoder hears no more than it can at once.
std::vector<Reading::Group> Reading::groups_of(const Segments& segments, const Tokens& tokens,
                                               int length) const {
  std::vector<int> counts(segments.words());
  for (const int owner : tokens.owners) ++counts[owner];
  std::vector<Group> groups;
  int first = 0, begin = 0, written = 0;
  for (int word = 0; word < segments.words(); ++word) {
    const Span span = segments.word_spans[word];
    const bool is_long = span.last - begin > kGroupFrames || written + counts[word] > kGroupTokens;
    if (is_long && word > first) {
      const int cut = (segments.word_spans[word - 1].last + span.first) / 2;
      groups.push_back({{first, word}, {begin, cut}});
      first = word;
      begin = cut;
      written = 0;
    }
    written += counts[word];
  }
  groups.push_back({{first, segments.words()}, {begin, length}});
  return groups;
}

// Lets the decoder write a text, group by group; of the ends of texts only the last one stays.
Written Reading::write(const Heard& heard, const Segments& segments,
                       const std::vector<Group>& groups) const {
  const int width = heard.frames.cols / 2, length = heard.frames.rows;
  Written all;
  for (const Group& group : groups) {
    Table frames(group.frames.frames(), width);
    for (int t = 0; t < frames.rows; ++t) {
      std::copy_n(heard.frames[group.frames.first + t] + width, width, frames[t]);
    }
    const Tokens tokens = tokens_of(group.words);
    const ReadingModel::Forced forced = grader_.write(frames, tokens.ids);
    auto silent = quiet_.find(tokens.ids);
    if (silent == quiet_.end()) {
      silent = quiet_.emplace(tokens.ids, grader_.write_quiet(tokens.ids)).first;
    }
    const std::size_t count = tokens.ids.size() + (&group == &groups.back());
    const auto add = [&](std::vector<float>& to, const std::vector<float>& from) {
      to.insert(to.end(), from.begin(), from.begin() + count);
    };
    add(all.own, forced.own);
    add(all.best, forced.best);
    add(all.rank, forced.rank);
    add(all.entropy, forced.entropy);
    add(all.att_entropy, forced.att_entropy);
    add(all.att_peak, forced.att_peak);
    add(all.quiet, silent->second);
    for (std::size_t i = 0; i < tokens.ids.size(); ++i) {
      const int owner = group.words.first + tokens.owners[i];
      all.owners.push_back(owner);
      // What surrounds a word belongs to it in part: attention runs a little ahead.
      const Span span = segments.word_spans[owner];
      const int from = std::max(span.first - kAround, 0),
                to = std::min(span.last + kAround, length);
      const float* const row = forced.attended[static_cast<int>(i)];
      double whole = 0, before = 0, behind = 0;
      for (int t = 0; t < frames.rows; ++t) {
        whole += row[t];
        if (group.frames.first + t < from) before += row[t];
        if (group.frames.first + t >= to) behind += row[t];
      }
      whole = std::max(whole, 1e-9);
      all.before.push_back(before / whole);
      all.behind.push_back(behind / whole);
    }
    add_leaps(tokens, forced, all.leaps);
  }
  return all;
}

// Whether the decoder would rather write the next word in each one's place.
void Reading::add_leaps(const Tokens& tokens, const ReadingModel::Forced& forced,
                        std::vector<float>& to) const {
  std::vector<std::size_t> firsts;
  for (std::size_t i = 0; i < tokens.ids.size(); ++i) {
    if (i == 0 || tokens.owners[i] != tokens.owners[i - 1]) firsts.push_back(i);
  }
  const Vocabulary& vocabulary = grader_.vocabulary();
  for (std::size_t w = 0; w < firsts.size(); ++w) {
    // Behind the last word stands the full stop.
    const int next = w + 1 < firsts.size() ? tokens.ids[firsts[w + 1]] : tokens.ids.back();
    const int other = forced.other[firsts[w]];
    to.push_back(vocabulary.plain(other) == vocabulary.plain(next) ? 1.0f : 0.0f);
  }
}

}  // namespace asa
