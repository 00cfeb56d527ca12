// The part of CUDA's runtime that the kernels' host code needs; runtime.cu gives it on a GPU,
// emulation/runtime.cc on the CPU. Failures throw std::runtime_error.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "asa/cuda/machine.h"

namespace asa::cuda {

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

// Memory of the GPU, or of the host where the GPU can copy from it directly.
class Memory {
 public:
  enum class Place { device, host };

  Memory() = default;
  Memory(Place place, std::size_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(place_, other.place_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  template <class T = void>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  Place place_ = Place::device;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Work that was captured, to be launched as a whole.
class Graph {
 public:
  struct State;
  explicit Graph(std::shared_ptr<State> state) : state_(std::move(state)) {}
  State& state() const { return *state_; }

 private:
  std::shared_ptr<State> state_;
};

// Work in order.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void copy_to_device(void* to, const void* from, std::size_t bytes);
  void copy_to_host(void* to, const void* from, std::size_t bytes);
  void fill(void* to, int byte, std::size_t bytes);
  void synchronize();

  // What is asked for in between is kept, not done.
  void begin_capture();
  Graph end_capture();
  void launch(const Graph& graph);

  // Milliseconds that work takes on the GPU; in the emulation, on the CPU.
  float time(const std::function<void()>& work);

  // For launch() below.
  void launch_kernel(const void* kernel, Grid grid, unsigned threads, std::size_t shared_bytes,
                     void** arguments);
  void run_emulated(Grid grid, unsigned threads, std::size_t shared_bytes,
                    std::function<void()> kernel);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The one way a kernel is started.
template <class... P, class... A>
void launch(Stream& stream, void (*kernel)(P...), Grid grid, unsigned threads,
            std::size_t shared_bytes, A... arguments) {
#if defined(ASA_EMULATED)
  stream.run_emulated(grid, threads, shared_bytes, [=] { kernel(P(arguments)...); });
#else
  [&](P... converted) {
    void* pointers[] = {static_cast<void*>(&converted)...};
    stream.launch_kernel(reinterpret_cast<const void*>(kernel), grid, threads, shared_bytes,
                         pointers);
  }(P(arguments)...);
#endif
}

}  // namespace asa::cuda
