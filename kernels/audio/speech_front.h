// What a grader hears: speech and its near surroundings.
#pragma once

#include <deque>
#include <vector>

#include "speech_track.h"

namespace asa {

// A stretch of the recording that the grader hears, in samples: where it begins in what the grader
// hears and in the recording.
struct Kept {
  std::size_t start, source, samples;
};

// Where in the recording something lies that the grader heard at a time, s; where nothing is kept,
// it heard the recording as it is.
double source_time_s(const std::vector<Kept>& kept, double time_s);

// Keeps the speech of a recording, its pauses and its near surroundings. What is kept depends on
// the frames so far alone; a pause comes out when the speech goes on, or not at all.
class SpeechFront {
 public:
  // level: speech leaves at one level; else at its own.
  explicit SpeechFront(bool level);

  // Takes the next frame and appends the samples that are due to `out`; returns how many frames it
  // makes speech: some at once where the gate opens.
  int push(SpeechFrame frame, std::vector<float>& out);

  // Appends the samples that are left.
  void finish(std::vector<float>& out);

  // Frames that must come, at least, before so many samples are due.
  std::size_t missing(std::size_t samples) const;

  double speech_s() const { return speech_s_; }
  const std::vector<Kept>& kept() const { return kept_; }

 private:
  // Mean power of the speech so far, the newest weighing most.
  class Level {
   public:
    void hear(double power);
    bool is_known() const;
    bool has_spoken() const { return frames_ > 0; }
    double power() const { return sum_ / weight_; }
    double gain() const;

   private:
    long frames_ = 0;
    double sum_ = 0, weight_ = 0;
  };

  int take(SpeechFrame frame);
  void open(long first_speech);
  bool is_loud(const SpeechFrame& frame) const;
  void leave(std::vector<float>& out);
  void note(const SpeechFrame& frame);

  const bool levels_;
  const std::size_t around_;  // frames kept before speech, and as many behind it
  double speech_s_ = 0;
  bool is_open_ = false, has_gain_ = false;
  std::size_t quiet_frames_ = 0;  // since speech, while the gate is open
  std::size_t shut_frames_ = 0;
  std::vector<SpeechFrame> behind_;  // the beginning of a pause
  std::deque<SpeechFrame> before_;   // its end
  std::vector<SpeechFrame> waiting_;
  Level level_;
  double gain_ = 1;
  std::vector<Kept> kept_;
  std::size_t samples_out_ = 0;
};

}  // namespace asa
