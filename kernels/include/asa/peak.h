// The roofs over this machine's kernels, measured: products on registers, and copies.
#pragma once

#include <cstddef>

#include "asa/linear.h"

namespace asa {

struct PeakKernels {
  // Runs rounds of multiply-adds that depend on registers alone; returns the operations, 2 each.
  double (*multiply)(Precision precision, int rounds);
};

// Operations a second of the calling thread: the most any matrix product could reach.
double matrix_rate(Precision precision, double seconds);

// Bytes read and written a second by the calling thread, copying one buffer into another of the
// same size again and again.
double copy_rate(std::size_t bytes, double seconds);

}  // namespace asa
