// What the emulation must notice before its word on the kernels counts: their results in any order
// of threads, every barrier of theirs left out, threads that wait in vain, rounding.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "../checks.h"
#include "asa/cuda/ragged.h"
#include "block.h"
#include "half.h"

namespace {

using namespace asa::cuda;

int failures = 0;

void check(bool passed, const std::string& what) {
  if (passed) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

template <class Work>
bool stops(const Work& work) {
  try {
    work();
  } catch (const std::logic_error&) {
    return true;
  }
  return false;
}

void test_threads() {
  int reversed[96];
  emulation::run({1, 1, 1}, {96, 1, 1}, 96 * sizeof(int), [&] {
    int* shared = reinterpret_cast<int*>(emulation::self().shared);
    const int t = int(threadIdx.x);
    shared[t] = t;
    __syncthreads();
    reversed[t] = shared[95 - t];
  });
  bool right = true;
  for (int t = 0; t < 96; ++t) right &= reversed[t] == 95 - t;
  check(right, "threads see what others wrote before a barrier");

  int sums[32];
  emulation::run({1, 1, 1}, {32, 1, 1}, 0, [&] {
    int sum = int(threadIdx.x);
    for (int lanes = 16; lanes; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    sums[threadIdx.x] = sum;
  });
  check(std::count(sums, sums + 32, 31 * 32 / 2) == 32, "lanes exchange values");

  check(stops([] {
          emulation::run({1, 1, 1}, {64, 1, 1}, 0, [] {
            if (threadIdx.x < 32) {
              __syncthreads();
            } else {
              __syncthreads();
            }
          });
        }),
        "threads at different barriers are noticed");
  check(stops([] {
          emulation::run({1, 1, 1}, {32, 1, 1}, 0, [] {
            if (threadIdx.x) __syncwarp();
          });
        }),
        "lanes that wait in vain are noticed");
}

#if defined(__SANITIZE_ADDRESS__)
// The sanitizer ends the process, so it is another one that goes astray.
void test_bounds() {
  const auto ends = [](std::size_t bytes) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      static_cast<void>(std::freopen("/dev/null", "w", stderr));
      emulation::run({1, 1, 1}, {32, 1, 1}, bytes, [] {
        emulation::self().shared[4 * threadIdx.x] = 0;
        __syncthreads();
      });
      std::_Exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
  };
  check(ends(4 * 31 + 1) == 0, "shared memory can be used to its end");
  check(ends(4 * 31) != 0, "and what goes beyond is noticed");
}
#endif

// Every number a format has comes back; what lies between two goes to the nearer, a tie to the
// even.
template <class Half>
void test_rounding(const std::string& name) {
  bool right = true;
  for (unsigned bits = 0; bits < 0x7bff; ++bits) {
    Half low, high;
    low.bits = std::uint16_t(bits);
    high.bits = std::uint16_t(bits + 1);
    if (!std::isfinite(low.value()) || !std::isfinite(high.value())) continue;
    const float middle = low.value() / 2 + high.value() / 2;
    right &= Half(low.value()).bits == bits;
    right &= Half(-low.value()).bits == (bits | 0x8000);
    right &= Half(middle).bits == bits + bits % 2;
    right &= Half(std::nextafter(middle, 0.0f)).bits == bits;
    right &= Half(std::nextafter(middle, std::numeric_limits<float>::infinity())).bits == bits + 1;
  }
  check(right, name + " rounds to nearest, ties to even");
  check(std::isnan(Half(NAN).value()), name + " keeps NaN");
  check(std::isinf(Half(std::numeric_limits<float>::infinity()).value()), name + " keeps infinity");
}

// The checks whose name begins so, in bfloat16.
bool all_pass(const std::string& begins) {
  for (const Check& one : checks(false, 0)) {
    if (one.format != int(Format::bf16) || one.name.find(begins) != 0) continue;
    if (!one.run(one).passed()) return false;
  }
  return true;
}

void test_orders() {
  for (std::uint64_t seed : {1, 2}) {
    emulation::shuffle(seed);
    check(all_pass(""), "kernels in the order of seed " + std::to_string(seed));
  }
}

void test_barriers() {
  const auto sites = emulation::barriers_met();
  check(sites.size() > 10, "kernels have barriers");
  // Blocks run one after another here, so what only other blocks wait for goes unnoticed.
  std::string for_other_blocks = "kernel.h";
  for (const emulation::Site& site : sites) {
    const std::string path = site.file, file = path.substr(path.rfind('/') + 1);
    if (file == "test_emulation.cc") continue;
    const std::string own = file == "kernel.h" ? "pool_head" : file.substr(0, file.find('.'));
    bool noticed = false;
    emulation::pass_barrier(site);
    for (std::uint64_t seed = 0; seed < 6 && !noticed; ++seed) {
      emulation::shuffle(seed);
      try {
        noticed = !all_pass(own);
      } catch (const std::logic_error&) {
        noticed = true;
      }
    }
    if (!noticed && file == for_other_blocks) {
      for_other_blocks.clear();
      continue;
    }
    check(noticed, "nobody misses the barrier at " + file + ":" + std::to_string(site.line));
  }
  emulation::pass_barrier({nullptr, 0});
}

}  // namespace

int main() {
  test_threads();
#if defined(__SANITIZE_ADDRESS__)
  test_bounds();
#endif
  test_rounding<emulation::Bf16>("bfloat16");
  test_rounding<emulation::Fp16>("float16");
  test_orders();
  test_barriers();
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
