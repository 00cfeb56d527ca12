#include "speech_track.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "asa/isa.h"
#include "levels.h"

namespace asa {
namespace {

// The detector hears every frame as if the loudest lay at the first level: the loudest of those so
// far, which fade by half in a second, and of the next half second. So noise before speech is not
// raised to the level of speech; and where something much louder begins, it starts afresh.
const double kHeard = power_of_db(-16.0);
const double kQuietest = power_of_db(-73.0);  // below, nothing is raised further, nor heard
const double kHeardFade = std::pow(0.5, kFrameSeconds);
const double kAfresh = power_of_db(6.0);

// The floor is the lowest level of the last two seconds and the next half. A sound that stays
// within so much of it is a hum or a tone, whatever the detector says: voices move.
constexpr std::size_t kFloorFrames = 63;
const double kSteady = power_of_db(2.0);

double mean_square(const double* x, std::size_t count) {
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += x[i] * x[i];
  return sum / static_cast<double>(count);
}

}  // namespace

float SpeechDetector::probability(const float* samples) {
  return kernels().voice.run(weights_, samples, state_.data());
}

SpeechTrack::SpeechTrack(const HighPass& high_pass, const VoiceWeights& weights, bool as_is)
    : high_pass_(high_pass),
      detector_(weights),
      as_is_(as_is),
      source_(2 * kFilterBlock),
      powers_{std::numeric_limits<double>::infinity()} {}

// As if the first sample had always been there: an offset is no step.
void SpeechTrack::begin_at(float sample) {
  std::fill_n(source_.begin(), kFilterBlock, double{sample});
}

void SpeechTrack::filter_block() {
  std::vector<double> filtered(kVoiceContext + kFilterBlock), source(kFilterBlock);
  const int begin = skip_, block = kFilterBlock - begin;
  skip_ = 0;
  high_pass_.run(source_.data(), filtered.data() + kVoiceContext, source.data());
  // What goes before the block stands before its first sample that counts.
  double* const first = filtered.data() + begin;
  std::copy(before_.begin(), before_.end(), first);
  std::copy_n(source_.begin() + kFilterBlock, kFilterBlock, source_.begin());
  filled_ = 0;
  for (int at = 0; at < block; at += kVoiceFrame) {
    Filtered& frame = ahead_.emplace_back();
    std::copy_n(first + at, frame.heard.size(), frame.heard.begin());
    const double* high = first + at + kVoiceContext;
    frame.power = mean_square(high, kVoiceFrame);
    const double* heard = as_is_ ? source.data() + begin + at : high;
    frame.samples.assign(heard, heard + kVoiceFrame);
  }
  std::copy_n(filtered.end() - kVoiceContext, kVoiceContext, before_.begin());
}

std::size_t SpeechTrack::missing(std::size_t frames) const {
  const std::size_t lacking = (kAheadFrames + frames - ahead_.size()) * kVoiceFrame + skip_;
  return (lacking + kFilterBlock - 1) / kFilterBlock * kFilterBlock - filled_;
}

// Asks the detector about the oldest frame of those ahead.
SpeechFrame SpeechTrack::next() {
  double loudest = std::max(kQuietest, loudest_ * kHeardFade);
  double floor = *std::min_element(powers_.begin(), powers_.end());
  for (const Filtered& frame : ahead_) {
    loudest = std::max(loudest, frame.power);
    floor = std::min(floor, frame.power);
  }
  Filtered now = std::move(ahead_.front());
  ahead_.pop_front();
  if (loudest > loudest_ * kAfresh) detector_.reset();
  loudest_ = loudest;
  powers_.push_back(now.power);
  if (powers_.size() > kFloorFrames) powers_.pop_front();
  double probability = 0;
  if (loudest > kQuietest) {
    const double gain = std::sqrt(kHeard / loudest);
    std::array<float, kVoiceContext + kVoiceFrame> heard;
    std::transform(now.heard.begin(), now.heard.end(), heard.begin(),
                   [&](double sample) { return static_cast<float>(sample * gain); });
    probability = detector_.probability(heard.data());
    ++asked_;
    if (!(now.power > floor * kSteady)) probability = 0;
  }
  return {frames_++, std::move(now.samples), now.power, floor, probability};
}

// Drops the frames behind the recording's end; returns the one that it ends in.
SpeechTrack::Filtered SpeechTrack::cut() {
  const auto whole = static_cast<std::size_t>(samples_ / kVoiceFrame);
  const std::size_t beyond = frames_ + ahead_.size() - whole;
  ahead_.erase(ahead_.end() - static_cast<std::ptrdiff_t>(beyond - 1), ahead_.end());
  Filtered rest = std::move(ahead_.back());
  ahead_.pop_back();
  return rest;
}

SpeechFrame SpeechTrack::last_frame(const Filtered& rest) const {
  const std::size_t count = samples_ % kVoiceFrame;
  if (!count) return {};
  const double power = mean_square(rest.samples.data(), count);
  return {frames_, {rest.samples.begin(), rest.samples.begin() + count}, power, power, 0};
}

}  // namespace asa
