#include "asa/thread_pool.h"

#include <chrono>
#include <stdexcept>
#include <string>

namespace asa {
namespace {

// The next round of a running encoder comes within microseconds, sleeping and waking costs tens:
// wait awake for that long, and no longer.
template <class Condition>
bool wait_awake(Condition done) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::microseconds(30);
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  } while (Clock::now() < end);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads < 1 || threads > kMost) {
    throw std::invalid_argument("threads is " + std::to_string(threads) + "; it must be in [1, " +
                                std::to_string(kMost) + "]");
  }
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    round_.fetch_add(1);
  }
  start_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::run_erased(int tasks, Call call, void* work) {
  if (workers_.empty() || tasks == 1) {
    for (int task = 0; task < tasks; ++task) call(work, task, 0);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    tasks_ = tasks;
    call_ = call;
    work_ = work;
    next_.store(0);
    busy_.store(static_cast<int>(workers_.size()));
    round_.fetch_add(1);
  }
  start_.notify_all();
  take_tasks(0);
  if (wait_awake([this] { return busy_.load() == 0; })) return;
  std::unique_lock lock(mutex_);
  finish_.wait(lock, [this] { return busy_.load() == 0; });
}

void ThreadPool::take_tasks(int thread) {
  for (int task; (task = next_.fetch_add(1)) < tasks_;) call_(work_, task, thread);
}

void ThreadPool::serve(int thread) {
  for (std::uint64_t seen = 0;;) {
    if (!wait_awake([&] { return round_.load() != seen; })) {
      std::unique_lock lock(mutex_);
      start_.wait(lock, [&] { return round_.load() != seen; });
    }
    seen = round_.load();
    {
      std::lock_guard lock(mutex_);
      if (stop_) return;
    }
    take_tasks(thread);
    if (busy_.fetch_sub(1) == 1) {
      std::lock_guard lock(mutex_);
      finish_.notify_one();
    }
  }
}

}  // namespace asa
