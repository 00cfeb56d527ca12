// Every kernel against the CPU's, or against plain loops in double.
#pragma once

#include <string>
#include <vector>

namespace asa::cuda {

struct Outcome {
  double error, tolerance;  // relative, by norm; NaN fails
  double milliseconds = 0;  // of one launch, where asked for
  double operations = 0, bytes = 0;

  bool passed() const { return error <= tolerance; }
};

struct Check {
  std::string name;
  Outcome (*run)(const Check& check);
  bool large = false;  // sizes that fill a GPU
  int runs = 0;        // to time; 0: none
  int format = 0;      // of Format
};

// All of them, in both formats.
std::vector<Check> checks(bool large, int runs);

}  // namespace asa::cuda
