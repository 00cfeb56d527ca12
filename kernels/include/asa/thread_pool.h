// A fixed set of threads that run numbered tasks.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
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

  void run_erased(int tasks, Call call, void* work);
  void take_tasks(int thread);
  void serve(int thread);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_, finish_;
  std::atomic<std::uint64_t> round_{0};
  std::atomic<int> next_{0};
  std::atomic<int> busy_{0};
  bool stop_ = false;
  int tasks_ = 0;
  Call call_ = nullptr;
  void* work_ = nullptr;
};

}  // namespace asa
