#include "validity.h"

#include <algorithm>
#include <cmath>

#include "asa/log_mel.h"
#include "asa/voice.h"
#include "levels.h"
#include "speech_track.h"

namespace asa {
namespace {

// asa_engine/audio/validity.py says where these come from; a test compares the two.
constexpr double kActiveDbfs = -60, kDigitalSilenceDbfs = -90, kTopDbfs = 30, kBinDb = 0.5;
constexpr std::int64_t kActiveFrames = 3;  // fewer are silence
constexpr double kMinDuration_s = 0.3;
constexpr int kSpeechFrames = 8, kSpeechSpan = 63;
constexpr double kNoisySnrDb = 12, kHopelessSnrDb = 6, kNoiseFloorShare = 0.1;
constexpr std::size_t kMinNoiseSamples = 2 * kSampleRate;  // less may hold no pause
constexpr double kSpeechRangeDb = 20;
constexpr double kClippedShare = 0.001, kGrosslyClippedShare = 0.2;
constexpr double kFlatTopRatio = 5;
constexpr int kTopBins = 2, kBelowBins = 8;
constexpr double kRail = 0.998;  // of full scale
constexpr std::size_t kSegmentSamples = 16 * kVoiceFrame;
constexpr int kLevels = static_cast<int>((kTopDbfs - kFloorDbfs) / kBinDb);

int bin_of(double level_dbfs) { return static_cast<int>((level_dbfs - kFloorDbfs) / kBinDb); }
double level_of(std::ptrdiff_t bin) { return kFloorDbfs + static_cast<double>(bin) * kBinDb; }

}  // namespace

void InputLevels::push(const float* samples, std::size_t count) {
  constexpr auto least = static_cast<float>(kFirst * kRail / kBins);
  constexpr auto scale = static_cast<float>(kBins / kRail);
  samples_ += count;
  for (std::size_t i = 0; i < count; ++i) {
    const float size = std::fabs(samples[i]);
    peak_ = std::max(peak_, size);
    if (size >= least) ++counts_[static_cast<int>(std::min(size * scale, float{kBins}))];
  }
}

double InputLevels::clipped_share() const {
  const auto total = static_cast<double>(std::max<std::size_t>(samples_, 1));
  const double rail_share = static_cast<double>(counts_[kBins]) / total;
  int top = kBins;
  while (top > 0 && !counts_[top]) --top;
  const int first_below = top - kTopBins - kBelowBins + 1;
  if (top == kBins || first_below < kFirst) return rail_share;
  double in_top = 0, below = 0;
  for (int bin = first_below; bin <= top; ++bin) {
    (bin > top - kTopBins ? in_top : below) += static_cast<double>(counts_[bin]);
  }
  below *= double{kTopBins} / kBelowBins;
  return in_top > kFlatTopRatio * std::max(below, 4.0) ? in_top / total : rail_share;
}

ValidityMonitor::ValidityMonitor() : frames_at_(kLevels), power_at_(kLevels) {
  segment_.reserve(kSegmentSamples);
}

void ValidityMonitor::push(const float* samples, std::size_t count) {
  while (count) {
    const std::size_t n = std::min(count, kSegmentSamples - segment_.size());
    segment_.insert(segment_.end(), samples, samples + n);
    samples += n;
    count -= n;
    if (segment_.size() == kSegmentSamples) take_segment();
  }
}

void ValidityMonitor::hear(int speech_frames) {
  if (is_certain_) return;
  recent_.push_back(speech_frames);
  if (recent_.size() > kSpeechSpan) recent_.pop_front();
  speech_frames_ += speech_frames;
  int sum = 0;
  for (const int frames : recent_) sum += frames;
  is_certain_ = sum >= kSpeechFrames;
}

// Measures the whole frames of the segment; it is full, or the last one.
void ValidityMonitor::take_segment() {
  samples_ += segment_.size();
  for (const float sample : segment_) power_sum_ += double{sample} * sample;
  for (std::size_t at = 0; at + kVoiceFrame <= segment_.size(); at += kVoiceFrame) {
    double mean = 0, power = 0;
    for (int i = 0; i < kVoiceFrame; ++i) mean += segment_[at + i];
    mean /= kVoiceFrame;
    for (int i = 0; i < kVoiceFrame; ++i) {
      power += (segment_[at + i] - mean) * (segment_[at + i] - mean);
    }
    power /= kVoiceFrame;
    const int bin = std::clamp(bin_of(dbfs(power)), 0, kLevels - 1);
    ++frames_at_[bin];
    power_at_[bin] += power;
  }
  segment_.clear();
}

std::int64_t ValidityMonitor::frames_from(double least_dbfs) const {
  std::int64_t frames = 0;
  for (int bin = bin_of(least_dbfs); bin < kLevels; ++bin) frames += frames_at_[bin];
  return frames;
}

Validity ValidityMonitor::finish(const InputLevels& levels, std::optional<double> speech_s) {
  take_segment();
  Validity found;
  found.peak_dbfs = dbfs(levels.peak() * levels.peak());
  found.rms_dbfs = dbfs(power_sum_ / static_cast<double>(std::max<std::size_t>(samples_, 1)));
  found.clipped_share = levels.clipped_share();

  // Speech: half of the recording's energy lies in frames louder than this; unlike a mean, it does
  // not sink with the length of the pauses. Noise: a tenth of the frames that are not digital
  // silence are quieter than this.
  double energy = 0, all_energy = 0;
  for (const double power : power_at_) all_energy += power;
  int speech = 0;
  while (speech < kLevels - 1 && (energy += power_at_[speech]) < all_energy / 2) ++speech;
  const int audible = bin_of(kDigitalSilenceDbfs);
  std::int64_t below = 0;
  const double share = static_cast<double>(frames_from(kDigitalSilenceDbfs)) * kNoiseFloorShare;
  int noise = 0;
  while (noise < kLevels - 1) {
    if (noise >= audible) below += frames_at_[noise];
    if (static_cast<double>(below) > share) break;
    ++noise;
  }
  const double snr_db = level_of(speech) - level_of(noise);
  if (is_certain_) found.snr_db = snr_db;

  if (speech_s) {
    found.speech_s = *speech_s;
  } else if (is_certain_) {
    const double quietest = std::max(level_of(speech) - kSpeechRangeDb, kActiveDbfs);
    found.speech_s = static_cast<double>(frames_from(quietest)) * kFrameSeconds;
  } else {
    found.speech_s = static_cast<double>(speech_frames_) * kFrameSeconds;
  }

  const auto note = [&](const char* reason, bool is_hard) {
    found.reasons.emplace_back(reason);
    found.scorable = found.scorable && !is_hard;
  };
  if (static_cast<double>(samples_) < kMinDuration_s * kSampleRate) {
    note("too_short", true);
  } else if (!is_certain_) {
    const bool silent = frames_from(kActiveDbfs) < kActiveFrames;
    note(speech_frames_ ? "too_little_speech" : silent ? "silence" : "no_speech", true);
  }
  if (is_certain_ && snr_db < kNoisySnrDb && samples_ >= kMinNoiseSamples) {
    note("too_noisy", snr_db < kHopelessSnrDb);
  }
  if (found.clipped_share > kClippedShare) {
    note("clipping", found.clipped_share > kGrosslyClippedShare);
  }
  return found;
}

}  // namespace asa
