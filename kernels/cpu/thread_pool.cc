#include "asa/thread_pool.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace asa {
namespace {

// Inside a session the next round comes within microseconds, and sleeping and waking takes tens of
// them: wait awake, at first without letting others run, and not for ever.
constexpr std::chrono::microseconds kSelfish{20}, kAwake{2000};

// Waits awake until done(), while worth() and for kAwake at most.
template <class Done, class Worth>
bool wait_awake(Done done, Worth worth) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  while (worth()) {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    const auto waited = Clock::now() - begin;
    if (waited > kAwake) break;
    if (waited > kSelfish) std::this_thread::yield();
  }
  return done();
}

#if defined(__linux__)
// A kernel may wake a thread on its waker's own CPU, where it waits for milliseconds though others
// are idle. So a sleeper is barred from that CPU before it is woken, and set free when it runs.
class Place {
 public:
  void leave(std::thread& thread, int cpu) {
    pthread_t handle = thread.native_handle();
    if (cpu < 0 || cpu >= CPU_SETSIZE) return;
    if (pthread_getaffinity_np(handle, sizeof(allowed_), &allowed_)) return;
    cpu_set_t others = allowed_;
    CPU_CLR(cpu, &others);
    barred_ = CPU_COUNT(&others) > 0 && !pthread_setaffinity_np(handle, sizeof(others), &others);
  }
  void set_free() {
    if (barred_) pthread_setaffinity_np(pthread_self(), sizeof(allowed_), &allowed_);
    barred_ = false;
  }
  static int here() { return sched_getcpu(); }

 private:
  cpu_set_t allowed_;
  bool barred_ = false;
};
#else
class Place {
 public:
  void leave(std::thread&, int) {}
  void set_free() {}
  static int here() { return -1; }
};
#endif

}  // namespace

struct ThreadPool::State {
  explicit State(int workers) : sleepers(workers + 1) {}

  struct Sleeper {
    bool asleep = false;
    Place place;
  };

  std::mutex mutex;
  std::condition_variable start, finish;
  std::atomic<int> wanted{0};  // workers of the session: threads 1 .. wanted
  std::atomic<std::uint64_t> round{0};
  std::atomic<int> next{0};
  std::atomic<int> busy{0};
  std::uint64_t session = 0;
  std::uint64_t before = 0;  // the last round before this session
  std::vector<Sleeper> sleepers;
  bool stop = false;
  int tasks = 0;
  Call call = nullptr;
  const void* work = nullptr;
};

ThreadPool::ThreadPool(int threads) : process_(getpid()) {
  if (threads < 1 || threads > kMost) {
    throw std::invalid_argument("threads is " + std::to_string(threads) + "; it must be in [1, " +
                                std::to_string(kMost) + "]");
  }
  state_ = std::make_unique<State>(threads - 1);
  for (int i = 1; i < threads; ++i) {
    workers_.emplace_back([state = state_.get(), i] { serve(*state, i); });
  }
}

ThreadPool::~ThreadPool() {
  if (workers_.empty()) return;
  if (alone()) {
    // Nobody to join, and destroying a condition waits for those who wait on it: let both go.
    for (auto& worker : workers_) worker.detach();
    static_cast<void>(state_.release());
    return;
  }
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->start.notify_all();
  for (auto& worker : workers_) worker.join();
}

bool ThreadPool::alone() const { return workers_.empty() || getpid() != process_; }

ThreadPool::Session::Session(ThreadPool& pool, int tasks) : pool_(pool) {
  if (pool.alone() || tasks < 2) return;
  State& state = *pool.state_;
  const int wanted = std::min(tasks, pool.threads()) - 1;
  {
    std::lock_guard lock(state.mutex);
    const int here = Place::here();
    for (int thread = 1; thread <= wanted; ++thread) {
      auto& sleeper = state.sleepers[thread];
      if (sleeper.asleep) sleeper.place.leave(pool.workers_[thread - 1], here);
    }
    state.before = state.round.load();
    ++state.session;
    state.wanted.store(wanted);
  }
  state.start.notify_all();
}

ThreadPool::Session::~Session() {
  if (!pool_.alone()) pool_.state_->wanted.store(0);
}

void ThreadPool::run_erased(int tasks, Call call, const void* work) {
  if (alone() || tasks < 2) {
    for (int task = 0; task < tasks; ++task) call(work, task, 0);
  } else if (state_->wanted.load()) {
    run_round(tasks, call, work);
  } else {
    const Session session(*this, tasks);
    run_round(tasks, call, work);
  }
}

void ThreadPool::run_round(int tasks, Call call, const void* work) {
  State& state = *state_;
  {
    std::lock_guard lock(state.mutex);
    state.tasks = tasks;
    state.call = call;
    state.work = work;
    state.next.store(0);
    state.busy.store(state.wanted.load());
    state.round.fetch_add(1);
  }
  state.start.notify_all();
  take_tasks(state, 0);
  const auto finished = [&] { return state.busy.load() == 0; };
  if (wait_awake(finished, [] { return true; })) return;
  std::unique_lock lock(state.mutex);
  state.finish.wait(lock, finished);
}

void ThreadPool::take_tasks(State& state, int thread) {
  for (int task; (task = state.next.fetch_add(1)) < state.tasks;) {
    state.call(state.work, task, thread);
  }
}

void ThreadPool::serve(State& state, int thread) {
  std::uint64_t session = 0, round = 0;
  const auto wanted = [&] { return thread <= state.wanted.load(); };
  const auto called = [&] { return state.round.load() != round && wanted(); };
  for (;;) {
    const bool awake = wait_awake(called, wanted);
    {
      std::unique_lock lock(state.mutex);
      auto& sleeper = state.sleepers[thread];
      if (!awake) {
        sleeper.asleep = true;
        state.start.wait(
            lock, [&] { return state.stop || called() || (wanted() && state.session != session); });
        sleeper.asleep = false;
      }
      sleeper.place.set_free();
      if (state.stop) return;
      session = state.session;
      round = state.round.load();
      // Rounds up to the session's first one were not counted on this worker.
      if (!wanted() || round == state.before) continue;
    }
    take_tasks(state, thread);
    if (state.busy.fetch_sub(1) == 1) {
      std::lock_guard lock(state.mutex);
      state.finish.notify_one();
    }
  }
}

}  // namespace asa
