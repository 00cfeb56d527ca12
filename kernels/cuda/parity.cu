// Every kernel against the CPU's, with its error and its time, wherever a GPU is. Exits with 1
// where one is beyond its tolerance, with 77 where there is no GPU.
#include <cstdio>
#include <cstring>
#include <exception>

#include "asa/cuda/machine.h"
#include "checks.h"

namespace {

bool run(const asa::cuda::Check& check) {
  try {
    const asa::cuda::Outcome o = check.run(check);
    std::printf("%-18s %-6s error %.2e of %.0e", check.name.c_str(), o.passed() ? "ok" : "WRONG",
                o.error, o.tolerance);
    if (o.milliseconds > 0) {
      std::printf("  %9.4f ms", o.milliseconds);
      if (o.operations > 0) std::printf("  %7.1f TFLOP/s", o.operations / o.milliseconds * 1e-9);
      if (o.bytes > 0) std::printf("  %7.1f GB/s", o.bytes / o.milliseconds * 1e-6);
    }
    std::printf("\n");
    return o.passed();
  } catch (const std::exception& error) {
    std::printf("%-18s FAILED %s\n", check.name.c_str(), error.what());
    return false;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc == 2 && std::strcmp(argv[1], "--quick") == 0;
  if (argc > 1 && !quick) {
    std::fprintf(stderr, "usage: %s [--quick]\n", argv[0]);
    return 2;
  }
  try {
    const asa::cuda::Machine m = asa::cuda::machine();
    std::printf("%s, compute capability %d.%d, driver for CUDA %s, built with %s, %zu MB free\n",
                m.name.c_str(), m.major, m.minor, m.driver.c_str(), m.runtime.c_str(),
                m.free_bytes >> 20);
  } catch (const asa::cuda::Unavailable& error) {
    std::fprintf(stderr, "parity: %s\n", error.what());
    return 77;
  }
  bool passed = true;
  for (const auto& check : asa::cuda::checks(false, 0)) passed &= run(check);
  if (!quick) {
    for (const auto& check : asa::cuda::checks(true, 30)) passed &= run(check);
  }
  return passed ? 0 : 1;
}
