#include "stream.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "asa/isa.h"

namespace asa {
namespace {

constexpr std::size_t kMostSamples = std::size_t{4 * 3600} * kSampleRate;
constexpr std::size_t kPiece = kSampleRate;  // samples looked at in one go
constexpr float kMostPeak = 32.0f;           // 30 dB over full scale means other units

// Adds the time between its making and its end to a sum.
class Stopwatch {
 public:
  explicit Stopwatch(double& sum_ms) : sum_ms_(sum_ms) {}
  ~Stopwatch() { sum_ms_ += so_far_ms(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  double so_far_ms() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_)
        .count();
  }

 private:
  double& sum_ms_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

std::string seconds(std::size_t samples) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g s", static_cast<double>(samples) / kSampleRate);
  return text;
}

double in_seconds(std::size_t samples) { return static_cast<double>(samples) / kSampleRate; }

}  // namespace

Stream::Stream(std::shared_ptr<const Grader> grader, const char* text)
    : grader_(std::move(grader)),
      config_(grader_->config()),
      track_(grader_->high_pass(), grader_->voice(), config_.front == Front::gated),
      front_(config_.front != Front::gated),
      window_(config_.encoder.mels, config_.window_samples) {
  const ReadingModel* const model = grader_->reading();
  if (!model && text) {
    throw TextError("this grader judges speech without its text; open the stream without one");
  }
  if (!model) return;
  if (!text) {
    throw TextError("this grader judges the reading of a text; open the stream with the text");
  }
  const Stopwatch lap(spent_.backbone);
  reading_.emplace(*model, *config_.reading, text);
}

void Stream::check_open(std::size_t count) const {
  if (is_finished_) throw OrderError("the stream is finished; open another one");
  if (is_ending_) throw OrderError("the stream could not be judged; open another one");
  if (count > kMostSamples - samples_) {
    throw AudioError("the audio is longer than 14400 s; cut it into parts");
  }
  check_length();
}

// What a call that failed has taken is not taken back, so a reading is refused with the next one.
void Stream::check_length() const {
  if (!reading_ || !reading_->is_too_long()) return;
  throw AudioError("the reading is longer than " + seconds(config_.reading->most_samples) +
                   "; judge it paragraph by paragraph");
}

void Stream::feed(const float* samples, std::size_t count) {
  check_open(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (std::fabs(samples[i]) <= kMostPeak) continue;
    if (std::isfinite(samples[i])) {
      throw AudioError(
          "a float sample is beyond 32 times full scale, which is 1.0; divide by the "
          "full scale, or pass 16-bit integers");
    }
    throw AudioError(std::string("the audio holds ") +
                     (std::isnan(samples[i]) ? "NaN" : "infinity") + " at " +
                     seconds(samples_ + i) + "; record it again without it");
  }
  tail_ms_ = 0;
  const Stopwatch lap(tail_ms_);
  for (std::size_t at = 0; at < count; at += kPiece) {
    take(samples + at, std::min(kPiece, count - at));
  }
}

void Stream::feed(const std::int16_t* samples, std::size_t count) {
  check_open(count);
  tail_ms_ = 0;
  const Stopwatch lap(tail_ms_);
  std::vector<float> piece;
  for (std::size_t at = 0; at < count; at += kPiece) {
    const std::size_t n = std::min(kPiece, count - at);
    piece.resize(n);
    for (std::size_t i = 0; i < n; ++i) piece[i] = static_cast<float>(samples[at + i]) / 32768.0f;
    take(piece.data(), n);
  }
}

void Stream::take(const float* samples, std::size_t count) {
  std::vector<float> heard;
  {
    const Stopwatch lap(spent_.decode);
    levels_.push(samples, count);
    sha256_.update(samples, count * sizeof(float));
    samples_ += count;
    monitor_.push(samples, count);
    const bool is_whole = config_.front == Front::whole;
    // Where the grader hears all of it, the detector has done its work once somebody speaks.
    if (!is_whole || !monitor_.is_certain()) {
      track_.push(samples, count, [&](SpeechFrame frame) { hear(std::move(frame), heard); });
    }
    if (is_whole) heard.assign(samples, samples + count);
  }
  grade(heard);
}

void Stream::hear(SpeechFrame frame, std::vector<float>& heard) {
  monitor_.hear(front_.push(std::move(frame), heard));
}

void Stream::grade(const std::vector<float>& heard) {
  heard_ += heard.size();
  if (reading_) reading_->push(heard.data(), heard.size());
  for (std::size_t at = 0; at < heard.size();) {
    const std::size_t n = std::min(heard.size() - at, window_.window_samples() - window_.samples());
    {
      const Stopwatch lap(spent_.features);
      window_.push(heard.data() + at, n);
    }
    at += n;
    if (window_.samples() < window_.window_samples()) break;
    encode();
    encoded_ += window_.window_samples();
  }
}

void Stream::encode() {
  std::vector<float> mel(static_cast<std::size_t>(window_.n_mels()) * window_.frames());
  const int frames = window_.frames();
  {
    const Stopwatch lap(spent_.features);
    window_.close(mel.data());
  }
  const Stopwatch lap(spent_.encoder);
  asked_.reset();
  read_.reset();
  if (reading_) {
    reading_->take(mel.data(), frames);
  } else {
    grader_->encode(mel.data(), frames, stats_);
  }
}

Stream::Grade Stream::grade_of(std::size_t samples) {
  const Stopwatch lap(spent_.head);
  return {grader_->head(stats_), samples};
}

const std::optional<ReadingGrade>& Stream::so_far() {
  const Stopwatch lap(spent_.backbone);
  if (!read_) read_ = reading_->provisional();
  return *read_;
}

const std::string& Stream::provisional() {
  if (is_finished_) throw OrderError("the stream is finished; its result has the final scores");
  if (!asked_ && !stats_.empty()) asked_ = grade_of(encoded_);
  JsonWriter json;
  json.open().name("audio_s").number(in_seconds(samples_)).name("scores");
  if (reading_ && so_far()) {
    write_reading(json, *so_far());
    write_words(json, *so_far());
  } else if (asked_) {
    write_scores(json, asked_->output.scores, in_seconds(asked_->samples));
    json.close();
  } else {
    json.open().close();
  }
  json.close();
  return json_ = json.str();
}

const std::string& Stream::finish() {
  if (is_finished_) return json_;
  if (!samples_) throw OrderError("the audio holds 0 samples; feed some before the end");
  check_open(0);
  is_ending_ = true;
  double unused = 0;
  const Stopwatch lap(unused);
  std::vector<float> heard;
  {
    const Stopwatch decode(spent_.decode);
    const bool is_whole = config_.front == Front::whole;
    if (!is_whole || !monitor_.is_certain()) {
      track_.finish([&](SpeechFrame frame) { hear(std::move(frame), heard); });
      if (is_whole) heard.clear();
    }
    if (!is_whole) front_.finish(heard);
  }
  grade(heard);
  const bool is_only = encoded_ == 0;
  const std::size_t least = is_only ? kEdge + 1 : config_.min_window_samples;
  if (window_.samples() >= least) {
    if (config_.pad_to_window) {
      const std::vector<float> zeros(window_.window_samples() - window_.samples());
      window_.push(zeros.data(), zeros.size());
    }
    encode();
  }
  std::optional<double> speech_s;
  if (config_.front != Front::whole) speech_s = front_.speech_s();
  Validity validity = monitor_.finish(levels_, speech_s);
  std::optional<ReadingGrade> reading;
  if (reading_) {
    const Stopwatch backbone(spent_.backbone);
    reading = reading_->finish();
  }
  if (reading) {
    validity.reasons.insert(validity.reasons.end(), reading->reasons.begin(),
                            reading->reasons.end());
    validity.scorable = validity.scorable && reading->is_scorable;
  }
  std::optional<Grade> found;
  if (!stats_.empty()) found = grade_of(heard_);
  json_ = assessment(validity, found, reading, tail_ms_ + lap.so_far_ms());
  is_finished_ = true;
  return json_;
}

}  // namespace asa
