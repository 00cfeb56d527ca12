// The pronunciation grader's parts, ready to run: what reads texts, the two networks that hear, the
// small ones that judge.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "asa/decoder.h"
#include "asa/encoder.h"
#include "config.h"
#include "device_file.h"
#include "judge.h"
#include "spoken_text.h"
#include "table.h"
#include "vocabulary.h"

namespace asa {

// Any number of threads may use one.
class ReadingModel {
 public:
  // The encoder must outlive it. Throws FileError; std::invalid_argument for bf16.
  ReadingModel(const DeviceFile& file, const GraderConfig& config, Precision precision,
               Encoder& encoder);

  const TextReader& reader() const { return reader_; }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  const PhoneLayer& phones() const { return phones_; }
  const Judge& judge() const { return judge_; }
  const Verdict& mismatch() const { return mismatch_; }
  const Verdict& omission() const { return omission_; }
  const Verdict& insertion() const { return insertion_; }
  const Table& usual() const { return usual_; }

  // Encodes a window [mels][mel_frames]: adds its frames of the last two layers, side by side, and
  // its sums, of every layer that of h, then of every layer that of h^2.
  void encode(const float* mel, int mel_frames, Table& frames, std::vector<double>& moments) const;

  // What the decoder says of tokens and their end, made to write them over frames of the last
  // layer, [T][width].
  struct Forced {
    std::vector<float> own, best, rank, entropy, att_entropy, att_peak;
    std::vector<int> other;
    Table attended;
  };
  Forced write(const Table& frames, const std::vector<int>& tokens) const;

  // Log-probabilities of tokens and their end where nothing is heard.
  std::vector<float> write_quiet(const std::vector<int>& tokens) const;

 private:
  void read_decoder(const DeviceFile& file);

  const GraderConfig& config_;
  Encoder& encoder_;
  TextReader reader_;
  Vocabulary vocabulary_;
  PhoneLayer phones_;
  Judge judge_;
  Verdict mismatch_, omission_, insertion_;
  Table usual_, silence_;
  std::vector<float> last_two_;  // weights of layers
  mutable std::mutex turn_;      // the decoder holds the speech it was given last
  mutable Decoder decoder_;
};

}  // namespace asa
