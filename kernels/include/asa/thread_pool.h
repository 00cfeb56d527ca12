// A fixed set of threads that run numbered tasks. In a forked child, which has none of them, the
// caller of run() does all the work.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace asa {

class ThreadPool {
 public:
  // `threads` counts the caller of run(). Throws std::invalid_argument unless in [1, kMost].
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  static constexpr int kMost = 256;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // While one lives, as many workers as `tasks` can use are awake for the next run(), whose rounds
  // follow within microseconds. One at a time.
  class Session {
   public:
    Session(ThreadPool& pool, int tasks);
    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

   private:
    ThreadPool& pool_;
  };

  // Calls work(task, thread) for every task in [0, tasks), thread in [0, threads()), and returns
  // when all are done. Not to be called by two threads at once; work must not throw.
  template <class Work>
  void run(int tasks, const Work& work) {
    run_erased(
        tasks,
        [](const void* w, int task, int thread) { (*static_cast<const Work*>(w))(task, thread); },
        &work);
  }

 private:
  using Call = void (*)(const void*, int task, int thread);
  struct State;

  void run_erased(int tasks, Call call, const void* work);
  void run_round(int tasks, Call call, const void* work);
  static void take_tasks(State& state, int thread);
  static void serve(State& state, int thread);
  bool alone() const;

  std::unique_ptr<State> state_;  // what the threads share; a forked child must leave it alone
  std::vector<std::thread> workers_;
  int process_;  // where the workers live: fork() does not copy them
};

}  // namespace asa
