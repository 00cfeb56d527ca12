// Probabilistic YIN (Mauch and Dixon 2014) over YIN's normalised difference (de Cheveigne and
// Kawahara 2002, eq. 8). Squared differences are summed once for each hop and shared by the windows
// that overlap it. The path is searched over each frame's candidates instead of a grid of pitches.
// Compiled for the baseline alone, so that every CPU of a family gives the same track.
#include "asa/pitch.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace asa {
namespace {

constexpr int kLags = 256;  // 0 to kPitchLongest + 1, rounded up to whole vectors
constexpr int kLanes = 16;  // lags summed at a time
constexpr int kThresholds = 100;
constexpr int kMostCandidates = 120;  // every other lag
constexpr float kLeastProbability = 1e-4f;
constexpr double kBetaB = 18.0;     // thresholds are drawn from Beta(2, 18)
constexpr double kDecay = 2.0;      // preference for earlier troughs, per trough
constexpr double kNoTrough = 0.01;  // for the lowest trough, when all are above threshold
constexpr double kSwitch = 0.01;    // between voiced and unvoiced, per frame
constexpr double kBinsPerOctave = 120.0;
constexpr double kReach = 21.0;  // bins a voiced path may move in a frame
// Pitches that the probability of being unvoiced spreads over. A grid's number of bins, 601, calls
// much noise voiced; 200 gave the best agreement on real speech.
constexpr double kSpread = 200.0;
constexpr int kAhead = kPitchWindowBlocks / 2;
constexpr float kNever = -1e30f;

struct Tables {
  float threshold_probability[kThresholds];
  float below[kThresholds + 1];      // sum of the probabilities of the thresholds below index i
  float earlier[kMostCandidates];    // exp(-decay rank)
  float whole[kMostCandidates + 1];  // (1 - exp(-decay)) / (1 - exp(-decay n))

  Tables() {
    const auto cdf = [](double x) { return 1.0 - std::pow(1.0 - x, kBetaB) * (1.0 + kBetaB * x); };
    double sum = 0.0;
    for (int i = 0; i < kThresholds; ++i) {
      below[i] = static_cast<float>(sum);
      const double p = cdf((i + 1.0) / kThresholds) - cdf(static_cast<double>(i) / kThresholds);
      threshold_probability[i] = static_cast<float>(p);
      sum += p;
    }
    below[kThresholds] = static_cast<float>(sum);
    whole[0] = 0.0f;
    for (int i = 0; i < kMostCandidates; ++i) {
      earlier[i] = static_cast<float>(std::exp(-kDecay * i));
      whole[i + 1] =
          static_cast<float>((1.0 - std::exp(-kDecay)) / (1.0 - std::exp(-kDecay * (i + 1))));
    }
  }
};

const Tables& tables() {
  static const Tables made;
  return made;
}

// sums[lag] = sum over one hop of (x[j] - x[j + lag])^2
void square_differences(const float* x, float* sums) {
  for (int lag = 0; lag < kLags; lag += kLanes) {
    float sum[kLanes] = {};
    for (int j = 0; j < kPitchHop; ++j) {
      for (int i = 0; i < kLanes; ++i) {
        const float apart = x[j] - x[j + lag + i];
        sum[i] += apart * apart;
      }
    }
    std::copy(sum, sum + kLanes, sums + lag);
  }
}

// Places (log2 Hz) and probabilities of a frame's candidates.
int find_candidates(const float* difference, float* places, float* probabilities) {
  float normal[kLags];
  double sum = 0.0;
  normal[0] = 1.0f;
  for (int lag = 1; lag <= kPitchLongest + 1; ++lag) {
    sum += difference[lag];
    normal[lag] = sum > 0.0 ? static_cast<float>(difference[lag] * lag / sum) : 1.0f;
  }
  int troughs[kMostCandidates], found = 0;
  for (int lag = kPitchShortest; lag <= kPitchLongest && found < kMostCandidates; ++lag) {
    const bool first = lag == kPitchShortest;
    if ((first || normal[lag] < normal[lag - 1]) && normal[lag] < normal[lag + 1] &&
        normal[lag] < 1.0f) {
      troughs[found++] = lag;
    }
  }
  const Tables& t = tables();
  int lowest = 0;
  for (int k = 0; k < found; ++k) {
    probabilities[k] = 0.0f;
    if (normal[troughs[k]] < normal[troughs[lowest]]) lowest = k;
  }
  if (found == 0) return 0;
  const int quiet = std::min(kThresholds, static_cast<int>(normal[troughs[lowest]] * kThresholds));
  for (int i = quiet; i < kThresholds; ++i) {
    const float threshold = static_cast<float>(i + 1) / kThresholds;
    int under = 0;
    for (int k = 0; k < found; ++k) under += normal[troughs[k]] < threshold;
    int rank = 0;
    for (int k = 0; k < found; ++k) {
      if (normal[troughs[k]] < threshold) {
        probabilities[k] += t.threshold_probability[i] * t.earlier[rank++] * t.whole[under];
      }
    }
  }
  probabilities[lowest] += static_cast<float>(kNoTrough) * t.below[quiet];
  int kept = 0;
  for (int k = 0; k < found; ++k) {
    if (probabilities[k] < kLeastProbability) continue;
    const float* y = normal + troughs[k];
    const float curve = y[1] + y[-1] - 2.0f * y[0], slope = 0.5f * (y[1] - y[-1]);
    const float shift = std::fabs(slope) < std::fabs(curve) ? -slope / curve : 0.0f;
    places[kept] = std::log2(16000.0f / (static_cast<float>(troughs[k]) + shift));
    probabilities[kept++] = probabilities[k];
  }
  return kept;
}

}  // namespace

PitchTracker::PitchTracker() { reset(); }

void PitchTracker::reset() {
  pending_.clear();
  // Silence before the first sample fills the first window.
  differences_.assign(kPitchWindowBlocks * kLags, 0.0f);
  count_ = done_ = 0;
  blocks_ = 0;
  candidates_.clear();
  first_.clear();
  voiced_.clear();
}

void PitchTracker::push(const float* samples, std::size_t count) {
  float nothing = 0.0f;
  for (std::size_t i = 0; i < count; ++i) nothing += samples[i] - samples[i];
  if (!(nothing == 0.0f)) throw std::invalid_argument("samples must be finite");
  count_ += count;
  take(samples, count);
}

void PitchTracker::take(const float* samples, std::size_t count) {
  constexpr std::size_t kPiece = 16000;
  while (count > 0) {
    const std::size_t size = std::min(count, kPiece);
    pending_.insert(pending_.end(), samples, samples + size);
    run_blocks();
    samples += size;
    count -= size;
  }
}

void PitchTracker::run_blocks() {
  std::size_t at = 0;
  for (; pending_.size() >= at + kPitchHop + kLags; at += kPitchHop) {
    square_differences(pending_.data() + at,
                       differences_.data() + blocks_ % kPitchWindowBlocks * kLags);
    ++blocks_;
    if (blocks_ >= kAhead) add_frame();
  }
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(at));
}

void PitchTracker::add_frame() {
  float window[kLags] = {};
  // From the oldest block to the newest: the order of a sum decides its last bits.
  for (std::size_t i = 0; i < kPitchWindowBlocks; ++i) {
    const float* block = differences_.data() + (blocks_ + i) % kPitchWindowBlocks * kLags;
    for (int lag = 0; lag < kLags; ++lag) window[lag] += block[lag];
  }
  float places[kMostCandidates], probabilities[kMostCandidates];
  const int found = find_candidates(window, places, probabilities);
  step(places, probabilities, found);
}

void PitchTracker::step(const float* places, const float* probabilities, int found) {
  static const float stay = static_cast<float>(std::log((1.0 - kSwitch) / kReach));
  static const float change = static_cast<float>(std::log(kSwitch / kReach));
  float voiced = 0.0f;
  for (int k = 0; k < found; ++k) voiced += probabilities[k];
  voiced = std::min(voiced, 1.0f);
  const std::size_t begin = first_.empty() ? 0 : first_.back(), end = candidates_.size();
  first_.push_back(end);
  voiced_.push_back(voiced);
  for (int k = 0; k <= found; ++k) {
    const bool quiet = k == found;
    const float heard =
        quiet ? std::max(1.0f - voiced, 1e-7f) / static_cast<float>(kSpread) : probabilities[k];
    Candidate next{quiet ? 0.0f : places[k], kNever, 0};
    for (std::size_t i = begin; i < end; ++i) {
      const bool was_quiet = i + 1 == end;
      float move = quiet == was_quiet ? stay : change;
      if (!quiet && !was_quiet) {
        const float apart = std::fabs(candidates_[i].place - places[k]) *
                            static_cast<float>(kBinsPerOctave / kReach);
        move = apart < 1.0f ? stay + std::log(1.0f - apart) : kNever;
      }
      const float score = candidates_[i].score + move;
      if (score > next.score) {
        next.score = score;
        next.from = static_cast<std::uint8_t>(i - begin);
      }
    }
    if (begin == end) next.score = 0.0f;
    next.score += std::log(heard);
    candidates_.push_back(next);
  }
  // Scores fall without end; only their differences matter.
  const float top =
      std::max_element(candidates_.begin() + static_cast<std::ptrdiff_t>(end), candidates_.end(),
                       [](const Candidate& a, const Candidate& b) { return a.score < b.score; })
          ->score;
  for (std::size_t i = end; i < candidates_.size(); ++i) candidates_[i].score -= top;
  ++done_;
}

void PitchTracker::finish(float* f0_hz, float* voiced) {
  const float silence[kPitchHop] = {};
  // A frame waits for half a window and the longest lag, so the last ones are always left; one hop
  // more completes at most one of them.
  while (done_ < frames()) take(silence, kPitchHop);
  std::size_t best = first_.back(), last = candidates_.size() - 1;
  for (std::size_t i = best; i <= last; ++i) {
    if (candidates_[i].score > candidates_[best].score) best = i;
  }
  for (std::size_t t = done_; t-- > 0;) {
    f0_hz[t] = best == last ? 0.0f : std::exp2(candidates_[best].place);
    voiced[t] = voiced_[t];
    if (t > 0) {
      best = first_[t - 1] + candidates_[best].from;
      last = first_[t] - 1;
    }
  }
  reset();
}

}  // namespace asa
