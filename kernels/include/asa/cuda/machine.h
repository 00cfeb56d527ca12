// The GPU that the kernels would run on.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace asa::cuda {

// No GPU, or none that this build can use; the message says what to do about it.
struct Unavailable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Machine {
  std::string name;
  int major, minor;     // compute capability
  std::string driver;   // the newest CUDA it supports
  std::string runtime;  // the CUDA this was built with
  std::size_t total_bytes, free_bytes;
};

// Throws Unavailable.
Machine machine();

}  // namespace asa::cuda
