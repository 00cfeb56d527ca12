// The grader of one file, ready to run: encoder, speech detector, and of the acoustic grader
// pooling and head, of the pronunciation grader what judges the reading of a text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "asa/encoder.h"
#include "asa/head.h"
#include "asa/voice.h"
#include "config.h"
#include "device_file.h"
#include "high_pass.h"
#include "reading_model.h"

namespace asa {

// Scores and prior, as the head gives them.
struct HeadOutput {
  std::vector<float> scores, prior;
};

// Any number of threads may use one grader.
class Grader {
 public:
  // Throws FileError; std::invalid_argument for an unknown precision or thread count. The file is
  // not used afterwards. precision: null for the file's.
  Grader(const DeviceFile& file, const char* precision, int threads);

  const GraderConfig& config() const { return config_; }
  const HighPass& high_pass() const { return high_pass_; }
  const VoiceWeights& voice() const { return voice_; }
  const std::string& precision() const { return precision_; }
  const std::string& file_sha256() const { return file_sha256_; }
  const std::string& description() const { return description_; }
  int threads() const { return encoder_->threads(); }

  // What judges readings; null in an acoustic grader.
  const ReadingModel* reading() const { return reading_.get(); }

  // Adds a window's sums, [head.stats()], to `stats`. mel: [mels][mel_frames].
  void encode(const float* mel, int mel_frames, std::vector<double>& stats) const;

  HeadOutput head(const std::vector<double>& stats) const;

 private:
  void read_encoder(const DeviceFile& file, int threads);
  void read_head(const DeviceFile& file);
  void read_voice(const DeviceFile& file);
  void describe();

  GraderConfig config_;
  HighPass high_pass_;
  std::string precision_, file_sha256_, description_;
  std::unique_ptr<Encoder> encoder_;
  std::unique_ptr<ReadingModel> reading_;
  std::vector<float> mix_, attention_weight_, attention_bias_;
  std::vector<float> head_values_, voice_values_;  // what the pointers of the next two point into
  HeadWeights head_{};
  VoiceWeights voice_{};
};

}  // namespace asa
