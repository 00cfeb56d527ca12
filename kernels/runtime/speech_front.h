// What a grader hears: speech and its near surroundings.
#pragma once

#include <deque>
#include <vector>

#include "speech_track.h"

namespace asa {

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

  double speech_s() const { return speech_s_; }

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
};

}  // namespace asa
