// The small networks that judge a reading, as asa_engine/graders/pronunciation/judge.py: phones of
// frames, scores of phones, words and the whole, verdicts.
#pragma once

#include <string>
#include <vector>

#include "asa/dense.h"
#include "config.h"
#include "device_file.h"
#include "measures.h"
#include "table.h"

namespace asa {

// Log-probabilities of silence and the phones at frames.
class PhoneLayer {
 public:
  // Of frames [width]. Throws FileError.
  PhoneLayer(const DeviceFile& file, int width, int hidden);

  Table run(const Table& frames) const;

 private:
  std::vector<float> norm_weight_, norm_bias_, bias1_, bias2_;
  Dense fc1_, fc2_;
};

// A small network that gives one number of a row.
class Verdict {
 public:
  // Throws FileError.
  Verdict(const DeviceFile& file, const std::string& name, int inputs, int hidden);

  // Log-odds of each row, [rows][inputs].
  std::vector<float> log_odds(const Table& rows) const;

 private:
  std::vector<float> mean_, scale_, bias1_, bias2_;
  Dense fc1_, fc2_;
};

// In points of the experts' scales, not yet held to them.
struct Judged {
  std::vector<float> scores;  // of each aspect
  std::vector<float> words;   // 0 to 10
  std::vector<float> phones;  // 0 to 2
};

class Judge {
 public:
  // The judge of readings, of frames [2 width] of an encoder of so many layers. Throws FileError.
  Judge(const DeviceFile& file, const JudgeShape& shape, int layers, int width);

  // moments: of every layer the sum of h, then of every layer the sum of h^2, over `frames`.
  // blocks: phones that see each other, in order.
  Judged run(const Described& described, const Segments& segments,
             const std::vector<double>& moments, long frames,
             const std::vector<Span>& blocks) const;

 private:
  // Of each seed.
  struct Linear {
    std::vector<Dense> weight;
    std::vector<float> bias;  // [seeds][out]

    Table run(int seed, const Table& rows) const;
  };
  struct Norm {
    std::vector<float> weight, bias;  // [seeds][width]
  };
  struct Layer {
    Norm norm1, norm2;
    Linear qkv, out, fc1, fc2;
  };
  struct Standard {
    std::vector<float> mean, scale;
  };

  Linear linear(const DeviceFile& file, const std::string& name, int in, int out) const;
  Norm norm(const DeviceFile& file, const std::string& name) const;
  Table inputs(const Described& described, const Segments& segments) const;
  void see(int seed, const Table& rows, const Segments& segments, const std::vector<float>& whole,
           Span block, Table& to) const;
  void attend(const Table& qkv, Table& to) const;
  std::vector<double> whole_scores(const std::vector<Table>& seen,
                                   const std::vector<float>& whole) const;
  std::vector<float> word_scores(const std::vector<Table>& seen, const Described& described,
                                 const Segments& segments) const;

  JudgeShape shape_;
  Standard input_, reading_, pooled_, words_, scores_, word_scores_, phone_scores_;
  std::vector<float> frames_mean_, phone_, net_pooled_, blend_;
  std::vector<float> kernel_reading_, kernel_pooled_, kernel_centres_, kernel_weights_,
      kernel_mean_;
  Dense frames_directions_, pooled_directions_;
  Linear first_, context_, attend_, score1_, score2_, word1_, word2_, one_;
  std::vector<Layer> layers_;
  Norm last_;
  std::vector<float> slopes_;
};

}  // namespace asa
