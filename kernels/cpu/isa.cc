#include "asa/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) || defined(__arm__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace asa {

#define ASA_DECLARE(isa) \
  namespace isa {        \
  Kernels table();       \
  }

#if defined(__x86_64__)
#define ASA_FOR_EACH_ISA(do) \
  do (generic) do(avx2) do(avx_vnni) do(avx512) do(avx512_bf16) do(amx)
#elif defined(__aarch64__)
#define ASA_FOR_EACH_ISA(do) \
  do (generic) do(neon) do(neon_dot) do(neon_bf16)
#elif defined(__arm__)
#define ASA_FOR_EACH_ISA(do) \
  do (generic) do(neon)
#else
#define ASA_FOR_EACH_ISA(do) \
  do (generic)
#endif
ASA_FOR_EACH_ISA(ASA_DECLARE)

namespace {

#if defined(__x86_64__)
// Compilers that are old enough do not know it by name.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}

// Linux lets a process have the tile registers' memory when it asks, once for all its threads.
bool has_amx() {
#if defined(__linux__)
  constexpr int kAskForState = 0x1023, kTileData = 18;
  constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24, kInt8 = 1u << 25;
  constexpr unsigned kAll = kBf16 | kTiles | kInt8;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kAll) != kAll) return false;
  static const bool granted = syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}
#endif

bool has(const std::string& isa) {
  if (isa == "generic") return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  if (isa == "avx2") return avx2;
  if (isa == "avx_vnni") return avx2 && has_avx_vnni();
  if (isa == "avx512") return avx512;
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  if (isa == "avx512_bf16") return bf16;
  if (isa == "amx") return bf16 && has_amx();
#elif defined(__aarch64__)
  const bool dot = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
  constexpr unsigned long both = HWCAP2_I8MM | HWCAP2_BF16;
  if (isa == "neon") return true;
  if (isa == "neon_dot") return dot;
  if (isa == "neon_bf16") return dot && (getauxval(AT_HWCAP2) & both) == both;
#elif defined(__arm__)
  if (isa == "neon") return getauxval(AT_HWCAP) & HWCAP_NEON;
#endif
  return false;
}

std::string names() {
  std::string list;
#define ASA_NAME(isa)                   \
  if (has(#isa)) {                      \
    list += (list.empty() ? "" : ", "); \
    list += #isa;                       \
  }
  ASA_FOR_EACH_ISA(ASA_NAME)
#undef ASA_NAME
  return list;
}

const Kernels& choose() {
  if (const char* forced = std::getenv("ASA_CPU_ISA"); forced && *forced) {
    return kernels_for(forced);
  }
  const Kernels* best = nullptr;
#define ASA_BEST(isa) \
  if (has(#isa)) best = &kernels_for(#isa);
  ASA_FOR_EACH_ISA(ASA_BEST)
#undef ASA_BEST
  return *best;
}

}  // namespace

const Kernels& kernels_for(const char* isa) {
  const std::string name = isa;
#define ASA_FIND(isa)                            \
  if (name == #isa && has(name)) {               \
    static const Kernels kernels = isa::table(); \
    return kernels;                              \
  }
  ASA_FOR_EACH_ISA(ASA_FIND)
#undef ASA_FIND
  throw std::runtime_error("the instruction set \"" + name +
                           "\" is not to be had on this CPU; it has: " + names());
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const char* available_isas() {
  static const std::string list = names();
  return list.c_str();
}

}  // namespace asa
