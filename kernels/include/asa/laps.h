// What an encoder's threads did, kernel by kernel, for those who ask.
#pragma once

#include <chrono>
#include <cstddef>
#include <vector>

#include "asa/linear.h"

namespace asa {

enum class Step {
  task,  // one block of rows through one round; the steps that follow lie inside it
  pack,
  conv1,
  conv2,
  norm,
  queries,
  keys,
  values,
  attention,
  projection,
  expand,
  contract,
  mix,
  moments,
};

struct Lap {
  Step step;
  int layer;            // -1 is the stem
  Precision precision;  // of the products
  int thread;
  double start, end;  // seconds of the steady clock
  double operations;  // 2 a multiply-add; rows and heads that only pad do not count
  double bytes;       // of weights, inputs and outputs, each once a task
};

// One thread's laps: mark() ends the step that the call before began.
class Laps {
 public:
  explicit Laps(int thread) : thread_(thread) {}

  void begin() { begun_ = last_ = now(); }

  void mark(Step step, int layer, Precision precision, double operations, double bytes) {
    const double end = now();
    keep({step, layer, precision, thread_, last_, end, operations, bytes});
    last_ = end;
  }

  void finish(int layer) {
    keep({Step::task, layer, Precision::fp32, thread_, begun_, last_, 0, 0});
  }

  void move_to(std::vector<Lap>& all) {
    all.insert(all.end(), laps_.begin(), laps_.end());
    laps_.clear();
  }

 private:
  static constexpr std::size_t kMost = 1 << 20;  // what comes later is dropped

  static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  void keep(const Lap& lap) {
    if (laps_.size() < kMost) laps_.push_back(lap);
  }

  int thread_;
  double begun_ = 0, last_ = 0;
  std::vector<Lap> laps_;
};

}  // namespace asa
