#include "letters.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "cursor.h"
#include "inflate.h"

namespace asa {
namespace {

constexpr std::string_view kMagic = "ASALTS01";
constexpr std::size_t kMostBytes = std::size_t{16} << 20, kMostLevels = 8;
constexpr std::size_t kBeam = 40, kMostGuesses = 4;
constexpr double kBeamNats = 12, kFlatten = 0.8, kStep = 1.0 / 20;

// Bytes one behind the other.
class Reader {
 public:
  explicit Reader(std::string_view data) : data_(data) {}

  std::string_view take(std::size_t count) {
    need(count <= data_.size(), "its letter model is cut");
    const std::string_view taken = data_.substr(0, count);
    data_.remove_prefix(count);
    return taken;
  }
  std::uint8_t byte() { return static_cast<std::uint8_t>(take(1)[0]); }
  std::uint32_t number() {
    std::uint32_t value;
    std::memcpy(&value, take(4).data(), sizeof(value));
    return value;
  }
  std::vector<std::uint8_t> column(std::size_t count) {
    const std::string_view taken = take(count);
    return {taken.begin(), taken.end()};
  }

 private:
  std::string_view data_;
};

}  // namespace

LetterModel::LetterModel(std::string_view packed) {
  need(packed.substr(0, kMagic.size()) == kMagic, "its letter model is none");
  const std::string data = inflate(packed.substr(kMagic.size()), kMostBytes);
  Reader reader(data);
  const int units = reader.byte();
  sounds_.emplace_back();
  for (int unit = 1; unit <= units; ++unit) {
    of_letter_[reader.byte()].push_back(static_cast<std::uint8_t>(unit));
    const auto codes = reader.column(reader.byte());
    sounds_.emplace_back(codes.begin(), codes.end());
    for (const int code : sounds_.back()) need(code < kSymbols, "its letter model has no phones");
  }
  const std::size_t count = reader.byte();
  need(count >= 1 && count <= kMostLevels, "its letter model has too many levels, or none");
  std::vector<std::uint64_t> parents = {0};
  for (std::size_t order = 1; order <= count; ++order) {
    Level& level = levels_.emplace_back();
    const std::size_t size = reader.number();
    const auto last = reader.column(size);
    need(size == parents.size() || order == 1, "its letter model has lost n-grams");
    need(size > 0, "its letter model has an empty level");
    level.keys.resize(size);
    for (std::size_t i = 0; i < size; ++i) {
      level.keys[i] = (order == 1 ? 0 : parents[i] << 8) | last[i];
      need(i == 0 || level.keys[i] > level.keys[i - 1], "its letter model is out of order");
    }
    level.log_p = reader.column(size);
    level.log_backoff = reader.column(size);
    if (order == count) break;
    const auto children = reader.column(size);
    parents.clear();
    for (std::size_t i = 0; i < size; ++i) {
      need(children[i] <= kMostBytes - parents.size(), "its letter model has too many n-grams");
      parents.insert(parents.end(), children[i], level.keys[i]);
    }
  }
}

std::size_t LetterModel::Level::find(std::uint64_t key) const {
  const auto at = std::lower_bound(keys.begin(), keys.end(), key);
  return at != keys.end() && *at == key ? at - keys.begin() : keys.size();
}

// known: how many units the history holds, the one before the word included.
double LetterModel::log_p(std::uint64_t history, std::uint8_t unit, std::size_t known) const {
  double found = 0;
  for (std::size_t order = std::min(known + 1, levels_.size());; --order) {
    const std::uint64_t context = history & ((std::uint64_t{1} << (8 * (order - 1))) - 1);
    const Level& level = levels_[order - 1];
    const std::size_t at = level.find(context << 8 | unit);
    if (at < level.keys.size()) return found + level.log_p[at] * -kStep;
    if (order == 1) return found;
    const Level& lower = levels_[order - 2];
    const std::size_t before = lower.find(context);
    if (before < lower.keys.size()) found += lower.log_backoff[before] * -kStep;
  }
}

std::vector<LetterModel::Guess> LetterModel::guess(std::string_view word) const {
  std::vector<Way> ways(1);
  std::size_t place = 0;
  for (const char letter : word) {
    ++place;
    const auto& units = of_letter_[static_cast<std::uint8_t>(letter)];
    std::vector<Way> longer;
    for (const Way& way : ways) {
      for (const std::uint8_t unit : units) {
        longer.push_back(
            {way.history << 8 | unit, way.score + log_p(way.history, unit, place), way.units});
        longer.back().units.push_back(unit);
      }
    }
    if (longer.empty()) return {{{}, 1.0}};
    std::stable_sort(longer.begin(), longer.end(),
                     [](const Way& a, const Way& b) { return a.score > b.score; });
    const double least = longer[0].score - kBeamNats;
    longer.resize(std::min(longer.size(), kBeam));
    while (!(longer.back().score > least)) longer.pop_back();
    ways = std::move(longer);
  }
  for (Way& way : ways) way.score += log_p(way.history, 0, word.size() + 1);
  return merge(ways);
}

// Ways that end in the same phones are one guess.
std::vector<LetterModel::Guess> LetterModel::merge(const std::vector<Way>& ways) const {
  double top = ways[0].score;
  for (const Way& way : ways) top = std::max(top, way.score);
  std::map<Pronunciation, double> all, stressed, spoken;
  for (const Way& way : ways) {
    Pronunciation said;
    for (const std::uint8_t unit : way.units) {
      said.insert(said.end(), sounds_[unit].begin(), sounds_[unit].end());
    }
    all[said] += std::exp(way.score - top);
  }
  // Every word has one primary stress; the n-grams are too short to know.
  for (const auto& [said, weight] : all) {
    const auto primary = std::count_if(said.begin(), said.end(),
                                       [](int symbol) { return symbol_stress(symbol) == 1; });
    if (primary == 1) stressed[said] = weight;
    if (!said.empty()) spoken[said] = weight;
  }
  const auto& kept = !stressed.empty() ? stressed : !spoken.empty() ? spoken : all;
  std::vector<Guess> guesses;
  double whole = 0;
  for (const auto& [said, weight] : kept) {
    guesses.push_back({said, std::pow(weight, kFlatten)});
    whole += guesses.back().probability;
  }
  std::stable_sort(guesses.begin(), guesses.end(),
                   [](const Guess& a, const Guess& b) { return a.probability > b.probability; });
  if (guesses.size() > kMostGuesses) guesses.resize(kMostGuesses);
  for (Guess& guess : guesses) guess.probability /= whole;
  return guesses;
}

}  // namespace asa
