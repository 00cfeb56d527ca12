#include "asa/thread_pool.h"

#include <unistd.h>

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

ThreadPool::ThreadPool(int threads) : state_(new State), process_(getpid()) {
  if (threads < 1 || threads > kMost) {
    throw std::invalid_argument("threads is " + std::to_string(threads) + "; it must be in [1, " +
                                std::to_string(kMost) + "]");
  }
  for (int i = 1; i < threads; ++i) {
    workers_.emplace_back([state = state_.get(), i] { serve(*state, i); });
  }
}

ThreadPool::~ThreadPool() {
  if (forked()) {
    // Nobody to join, and destroying a condition waits for those who wait on it: let both go.
    for (auto& worker : workers_) worker.detach();
    static_cast<void>(state_.release());
    return;
  }
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
    state_->round.fetch_add(1);
  }
  state_->start.notify_all();
  for (auto& worker : workers_) worker.join();
}

bool ThreadPool::forked() const { return !workers_.empty() && getpid() != process_; }

void ThreadPool::run_erased(int tasks, Call call, void* work) {
  if (workers_.empty() || tasks == 1 || forked()) {
    for (int task = 0; task < tasks; ++task) call(work, task, 0);
    return;
  }
  State& state = *state_;
  {
    std::lock_guard lock(state.mutex);
    state.tasks = tasks;
    state.call = call;
    state.work = work;
    state.next.store(0);
    state.busy.store(static_cast<int>(workers_.size()));
    state.round.fetch_add(1);
  }
  state.start.notify_all();
  take_tasks(state, 0);
  if (wait_awake([&] { return state.busy.load() == 0; })) return;
  std::unique_lock lock(state.mutex);
  state.finish.wait(lock, [&] { return state.busy.load() == 0; });
}

void ThreadPool::take_tasks(State& state, int thread) {
  for (int task; (task = state.next.fetch_add(1)) < state.tasks;) {
    state.call(state.work, task, thread);
  }
}

void ThreadPool::serve(State& state, int thread) {
  for (std::uint64_t seen = 0;;) {
    if (!wait_awake([&] { return state.round.load() != seen; })) {
      std::unique_lock lock(state.mutex);
      state.start.wait(lock, [&] { return state.round.load() != seen; });
    }
    {
      std::lock_guard lock(state.mutex);
      seen = state.round.load();
      if (state.stop) return;
    }
    take_tasks(state, thread);
    if (state.busy.fetch_sub(1) == 1) {
      std::lock_guard lock(state.mutex);
      state.finish.notify_one();
    }
  }
}

}  // namespace asa
