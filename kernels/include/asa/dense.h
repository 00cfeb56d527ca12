// Rows times a matrix that is packed once, for networks that are put together elsewhere.
#pragma once

#include "asa/buffer.h"
#include "asa/linear.h"

namespace asa {

// One thread, float32; a row's result depends neither on the rows beside it nor on how many there
// are.
class Dense {
 public:
  // Packs weight [in][out]. Throws std::invalid_argument for a matrix that is none or too large.
  Dense(const float* weight, std::size_t in, std::size_t out);

  int in() const { return linear_.in; }
  int out() const { return out_; }

  // y [count][out] = x [count][in] times the matrix. Many may run at a time.
  void run(const float* x, std::size_t count, float* y) const;

 private:
  int out_;
  Linear linear_;
  Buffer panels_, bias_;
};

}  // namespace asa
