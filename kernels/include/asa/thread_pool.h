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

  // Calls work(task, thread) for every task in [0, tasks), thread in [0, threads()), and returns
  // when all are done. Not to be called by two threads at once; work must not throw.
  template <class Work>
  void run(int tasks, Work&& work) {
    run_erased(
        tasks, [](void* w, int task, int thread) { (*static_cast<Work*>(w))(task, thread); },
        &work);
  }

 private:
  using Call = void (*)(void*, int task, int thread);

  // What the threads share; on the heap because a forked child must leave it alone.
  struct State {
    std::mutex mutex;
    std::condition_variable start, finish;
    std::atomic<std::uint64_t> round{0};
    std::atomic<int> next{0};
    std::atomic<int> busy{0};
    bool stop = false;
    int tasks = 0;
    Call call = nullptr;
    void* work = nullptr;
  };

  void run_erased(int tasks, Call call, void* work);
  static void take_tasks(State& state, int thread);
  static void serve(State& state, int thread);
  bool forked() const;

  std::unique_ptr<State> state_;
  std::vector<std::thread> workers_;
  int process_;  // where the workers live: fork() does not copy them
};

}  // namespace asa
