#include "speech_front.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "asa/log_mel.h"
#include "levels.h"

namespace asa {
namespace {

// Speech begins at the first probability and goes on at the second; or while the level lies within
// a range of the speech so far, and so far over the floor: the detector doubts some speakers whom
// everybody hears.
constexpr double kSpeech = 0.5, kStillSpeech = 0.35;
const double kSpeechRange = power_of_db(-20.0);
const double kOverFloor = power_of_db(12.0);

// The gate opens once so many of the last frames are speech: a click is one, a short word three.
constexpr std::size_t kOpenFrames = 3, kOpenSpan = 8;
constexpr std::size_t kAround = 10;       // 0.32 s: the detector is late, words begin softly
constexpr std::size_t kGatedAround = 13;  // of graders trained on whole recordings
constexpr std::size_t kPause = 47;        // 1.5 s; longer pauses are shortened to it

// Speech leaves at this level, which fades by half in 10 s. The first second of speech waits until
// its level is known.
const double kSpeechPower = power_of_db(-26.0);
constexpr long kLevelFrames = 31;
const double kLevelFade = std::pow(0.5, kFrameSeconds / 10);
const double kGreatestGain = std::pow(10.0, 50.0 / 20);

}  // namespace

SpeechFront::SpeechFront(bool level) : levels_(level), around_(level ? kAround : kGatedAround) {}

int SpeechFront::push(SpeechFrame frame, std::vector<float>& out) {
  const int speech_frames = take(std::move(frame));
  speech_s_ += speech_frames * kFrameSeconds;
  if (!waiting_.empty() && (level_.is_known() || !levels_)) leave(out);
  return speech_frames;
}

void SpeechFront::finish(std::vector<float>& out) {
  if (!waiting_.empty()) leave(out);
}

std::size_t SpeechFront::missing(std::size_t samples) const {
  const std::size_t frames = (samples + kVoiceFrame - 1) / kVoiceFrame;
  const std::size_t held = waiting_.size() + behind_.size() + before_.size();
  return frames > held ? frames - held : 1;
}

// Keeps a frame, or holds it back; returns how many frames it makes speech.
int SpeechFront::take(SpeechFrame frame) {
  if (is_open_) {
    const bool is_likely = frame.probability >= kStillSpeech;
    if (is_likely) level_.hear(frame.power);
    const bool is_speech = is_likely || is_loud(frame);
    waiting_.push_back(std::move(frame));
    if (is_speech) {
      quiet_frames_ = 0;
      return 1;
    }
    is_open_ = ++quiet_frames_ < around_;
    return 0;
  }
  ++shut_frames_;
  if (level_.has_spoken() && behind_.size() < kPause - 2 * around_) {
    behind_.push_back(std::move(frame));
  } else {
    before_.push_back(std::move(frame));
    if (before_.size() > around_ + kOpenSpan) before_.pop_front();
  }
  // The newest frames stand at the end of `before`, and before it in `behind`.
  long first = 0;
  std::vector<double> powers;
  const std::size_t held = behind_.size() + before_.size();
  for (std::size_t i = held - std::min(held, kOpenSpan); i < held; ++i) {
    const SpeechFrame& one = i < behind_.size() ? behind_[i] : before_[i - behind_.size()];
    if (one.probability < kSpeech) continue;
    if (powers.empty()) first = one.index;
    powers.push_back(one.power);
  }
  if (powers.size() < kOpenFrames) return 0;
  open(first);
  for (const double power : powers) level_.hear(power);
  return static_cast<int>(powers.size());
}

// Lets out the pause, or what is kept of it, up to the newest frame.
void SpeechFront::open(long first_speech) {
  const bool is_short = level_.has_spoken() && shut_frames_ <= kPause - around_;
  const long lead = is_short ? 0 : first_speech - static_cast<long>(around_);
  for (SpeechFrame& frame : behind_) waiting_.push_back(std::move(frame));
  for (SpeechFrame& frame : before_) {
    if (frame.index >= lead) waiting_.push_back(std::move(frame));
  }
  behind_.clear();
  before_.clear();
  shut_frames_ = quiet_frames_ = 0;
  is_open_ = true;
}

bool SpeechFront::is_loud(const SpeechFrame& frame) const {
  return frame.power >= std::max(level_.power() * kSpeechRange, frame.floor * kOverFloor);
}

// Brings what waits to its level; the gain moves over a frame, without a step.
void SpeechFront::leave(std::vector<float>& out) {
  const double gain = levels_ ? level_.gain() : 1, before = has_gain_ ? gain_ : gain;
  bool is_first = true;
  for (const SpeechFrame& frame : waiting_) {
    for (std::size_t i = 0; i < frame.samples.size(); ++i) {
      const double share = static_cast<double>(i + 1) / kVoiceFrame;
      const double by = is_first ? before + (gain - before) * share : gain;
      out.push_back(static_cast<float>(frame.samples[i] * by));
    }
    is_first = false;
    note(frame);
  }
  waiting_.clear();
  gain_ = gain;
  has_gain_ = true;
}

void SpeechFront::note(const SpeechFrame& frame) {
  const std::size_t source = static_cast<std::size_t>(frame.index) * kVoiceFrame;
  const std::size_t count = frame.samples.size();
  if (!kept_.empty() && kept_.back().source + kept_.back().samples == source) {
    kept_.back().samples += count;
  } else {
    kept_.push_back({samples_out_, source, count});
  }
  samples_out_ += count;
}

double source_time_s(const std::vector<Kept>& kept, double time_s) {
  if (kept.empty()) return time_s;
  const double at = time_s * kSampleRate;
  auto after = std::find_if(kept.begin(), kept.end(), [&](const Kept& stretch) {
    return static_cast<double>(stretch.start) > at;
  });
  const Kept& stretch = after == kept.begin() ? *after : *(after - 1);
  const double later = static_cast<double>(stretch.source) - static_cast<double>(stretch.start);
  return time_s + later / kSampleRate;
}

void SpeechFront::Level::hear(double power) {
  ++frames_;
  sum_ = sum_ * kLevelFade + power;
  weight_ = weight_ * kLevelFade + 1;
}

bool SpeechFront::Level::is_known() const { return frames_ >= kLevelFrames; }

double SpeechFront::Level::gain() const {
  return std::min(std::sqrt(kSpeechPower / std::max(power(), 1e-20)), kGreatestGain);
}

}  // namespace asa
