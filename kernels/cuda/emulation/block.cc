#include "block.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace asa::cuda::emulation {
namespace {

constexpr std::size_t kStackBytes = 128 << 10;
constexpr std::size_t kMeetingBytes = 64;  // of one lane's input or result

#if defined(__x86_64__)
// Saves what the calling convention keeps, and the stack pointer; goes on with another one.
// ucontext's switch asks the kernel for the signal mask each time, which takes a hundred times as
// long.
extern "C" void asa_switch_fiber(void** from, void* to);
asm(R"(
.text
.globl asa_switch_fiber
.type asa_switch_fiber, @function
asa_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size asa_switch_fiber, .-asa_switch_fiber
)");

struct Context {
  void* stack_pointer = nullptr;
};
void start_at(Context& context, unsigned char* stack, void (*entry)()) {
  auto** top = reinterpret_cast<void**>(stack + kStackBytes - 64);  // 16-byte aligned
  *--top = nullptr;                                                 // entry() never returns
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  context.stack_pointer = top;
}
void switch_context(Context& from, Context& to) {
  asa_switch_fiber(&from.stack_pointer, to.stack_pointer);
}
#else
using Context = ucontext_t;
void start_at(Context& context, unsigned char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

enum class State { ready, at_barrier, in_meeting, done };

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes, zeros;
};

struct Fiber {
  Context context;
  std::unique_ptr<unsigned char[]> stack;
  Thread thread;
  State state = State::done;
  int line = 0;  // where it waits
  std::vector<std::vector<Copy>> copies;
  void* fake_stack = nullptr;
};

struct Warp {
  int met = 0;
  alignas(16) unsigned char inputs[kWarp * kMeetingBytes];
  alignas(16) unsigned char results[kWarp * kMeetingBytes];
};

class Machine {
 public:
  void run(Index grid, Index block, std::size_t shared_bytes, const std::function<void()>& kernel) {
    const unsigned threads = block.x * block.y * block.z;
    if (threads == 0 || threads % kWarp || threads > 1024) {
      throw std::logic_error("a block must be made of whole warps, 1024 threads at most");
    }
    while (fibers_.size() < threads) {
      fibers_.push_back(std::make_unique<Fiber>());
      fibers_.back()->stack.reset(new unsigned char[kStackBytes]);
    }
    warps_.resize(threads / kWarp);
    kernel_ = &kernel;
    const std::size_t blocks = std::size_t(grid.x) * grid.y * grid.z;
    for (std::size_t at : order(blocks)) {
      // An allocation of the exact size, so that ASan sees what lies beyond.
      std::unique_ptr<unsigned char[]> exact(shared_bytes ? new unsigned char[shared_bytes]
                                                          : nullptr);
      if (shared_bytes) std::memset(exact.get(), 0xff, shared_bytes);
      const Index index{unsigned(at % grid.x), unsigned(at / grid.x % grid.y),
                        unsigned(at / grid.x / grid.y)};
      for (unsigned t = 0; t < threads; ++t) {
        Fiber& fiber = *fibers_[t];
        fiber.thread = {{t % block.x, t / block.x % block.y, t / block.x / block.y},
                        index,
                        block,
                        grid,
                        exact.get()};
        fiber.state = State::ready;
        fiber.copies.assign(1, {});
        start_at(fiber.context, fiber.stack.get(), &enter);
      }
      run_block(threads);
    }
  }

  Thread& self() { return fibers_[running_]->thread; }
  Fiber& fiber() { return *fibers_[running_]; }
  Warp& warp() { return warps_[running_ / kWarp]; }
  unsigned running() const { return running_; }
  void seed(std::uint64_t seed) {
    seeded_ = seed != 0;
    eager_ = seed % 2;
    random_.seed(seed);
  }

  // Whether a thread is to wait there.
  bool comes_to(const Site& site) {
    sites_.insert(site);
    return !passed_.file || site < passed_ || passed_ < site;
  }
  std::vector<Site> sites() const { return {sites_.begin(), sites_.end()}; }
  void pass(const Site& site) { passed_ = site; }

  void wait(State state, int line) {
    fiber().state = state;
    fiber().line = line;
    leave(false);
  }

  void wake_warp() {
    const unsigned first = running_ / kWarp * kWarp;
    for (unsigned t = first; t < first + kWarp; ++t) {
      Fiber& other = *fibers_[t];
      if (t == running_) continue;
      if (other.state != State::in_meeting || other.line != fiber().line) {
        broken_ = "lanes of a warp meet at different lines: " + std::to_string(other.line) +
                  " and " + std::to_string(fiber().line);
      }
      other.state = State::ready;
    }
  }

  void defer(const Copy& copy) {
    if (eager_) {
      make(copy);
    } else {
      fiber().copies.back().push_back(copy);
    }
  }
  void finish(std::size_t keep) {
    auto& groups = fiber().copies;
    while (groups.size() > keep + 1) {  // the last one is not committed yet
      for (const Copy& copy : groups.front()) make(copy);
      groups.erase(groups.begin());
    }
  }

 private:
  std::vector<std::size_t> order(std::size_t count) {
    std::vector<std::size_t> all(count);
    std::iota(all.begin(), all.end(), std::size_t{0});
    if (seeded_) std::shuffle(all.begin(), all.end(), random_);
    return all;
  }

  void run_block(unsigned threads) {
    for (;;) {
      bool advanced = false;
      for (std::size_t warp : order(threads / kWarp)) {
        const auto lanes = order(kWarp);
        for (bool again = true; again;) {
          again = false;
          for (std::size_t lane : lanes) {
            running_ = unsigned(warp * kWarp + lane);
            if (fibers_[running_]->state != State::ready) continue;
            enter_fiber();
            if (!broken_.empty()) stop();
            again = advanced = true;
          }
        }
      }
      if (!release_barrier(threads)) {
        if (advanced) continue;
        break;
      }
    }
    for (unsigned t = 0; t < threads; ++t) {
      if (fibers_[t]->state != State::done) {
        broken_ = "thread " + std::to_string(t) + " waits at line " +
                  std::to_string(fibers_[t]->line) + " for threads that never come";
        stop();
      }
    }
  }

  // Opens the barrier if all threads that have not ended are at it, and at one place.
  bool release_barrier(unsigned threads) {
    int line = 0;
    for (unsigned t = 0; t < threads; ++t) {
      const Fiber& fiber = *fibers_[t];
      if (fiber.state == State::done) continue;
      if (fiber.state != State::at_barrier) return false;
      if (line && fiber.line != line) {
        broken_ = "threads of a block wait at different barriers: lines " + std::to_string(line) +
                  " and " + std::to_string(fiber.line);
        stop();
      }
      line = fiber.line;
    }
    if (!line) return false;
    for (unsigned t = 0; t < threads; ++t) {
      if (fibers_[t]->state == State::at_barrier) fibers_[t]->state = State::ready;
    }
    return true;
  }

  // The fibers that still wait are dropped with whatever their stacks hold.
  [[noreturn]] void stop() {
    const std::string why = broken_;
    broken_.clear();
    for (auto& warp : warps_) warp.met = 0;
    fibers_.clear();
    throw std::logic_error(why);
  }

  static void enter();

  static void make(const Copy& copy) {
    if (copy.bytes) std::memcpy(copy.to, copy.from, copy.bytes);
    if (copy.zeros) std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.zeros);
  }

  void enter_fiber() {
    Fiber& to = fiber();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_fake_stack_, to.stack.get(), kStackBytes);
#endif
    switch_context(scheduler_, to.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);
#endif
  }

  void leave(bool for_good) {
    Fiber& from = fiber();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, scheduler_stack_,
                                   scheduler_stack_bytes_);
#else
    static_cast<void>(for_good);
#endif
    switch_context(from.context, scheduler_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  Context scheduler_;
  const std::function<void()>* kernel_ = nullptr;
  unsigned running_ = 0;
  bool seeded_ = false, eager_ = false;
  std::mt19937_64 random_;
  std::string broken_;
  std::set<Site> sites_;
  Site passed_{nullptr, 0};
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_stack_bytes_ = 0;
  void* scheduler_fake_stack_ = nullptr;
};

Machine& machine() {
  thread_local Machine machine;
  return machine;
}

void Machine::enter() {
  Machine& m = machine();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &m.scheduler_stack_, &m.scheduler_stack_bytes_);
#endif
  (*m.kernel_)();
  m.finish(0);
  m.fiber().state = State::done;
  m.leave(true);
}

}  // namespace

Thread& self() { return machine().self(); }

void run(Index grid, Index block, std::size_t shared_bytes, const std::function<void()>& kernel) {
  machine().run(grid, block, shared_bytes, kernel);
}

void shuffle(std::uint64_t seed) { machine().seed(seed); }

std::vector<Site> barriers_met() { return machine().sites(); }
void pass_barrier(const Site& site) { machine().pass(site); }

void sync_threads(const Site& site) {
  if (machine().comes_to(site)) machine().wait(State::at_barrier, site.line);
}

void sync_warp(const Site& site) {
  if (!machine().comes_to(site)) return;
  char nothing = 0, result;
  meet(site.line, &nothing, 1, &result, 1,
       [](const void*, void* out) { std::memset(out, 0, kWarp); });
}

void meet(int line, const void* input, std::size_t input_bytes, void* result,
          std::size_t result_bytes, Meeting meeting) {
  Machine& m = machine();
  Warp& warp = m.warp();
  const unsigned lane = m.running() % kWarp;
  std::memcpy(warp.inputs + lane * input_bytes, input, input_bytes);
  if (++warp.met == kWarp) {
    warp.met = 0;
    m.fiber().line = line;
    m.wake_warp();
    meeting(warp.inputs, warp.results);
  } else {
    m.wait(State::in_meeting, line);
  }
  std::memcpy(result, machine().warp().results + lane * result_bytes, result_bytes);
}

void defer(void* to, const void* from, std::size_t bytes, std::size_t zeros) {
  machine().defer({to, from, bytes, zeros});
}
void commit_deferred() { machine().fiber().copies.emplace_back(); }
void finish_deferred(int groups) { machine().finish(std::size_t(groups)); }

}  // namespace asa::cuda::emulation
