#include <chrono>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "../device.h"
#include "block.h"

namespace asa::cuda {

Machine machine() {
  constexpr std::size_t bytes = std::size_t{1} << 29;
  return {"emulated on the CPU", 8, 0, "0.0", "0.0", bytes, bytes};
}

Memory::Memory(Place place, std::size_t bytes) : place_(place), bytes_(bytes) {
  if (!bytes) return;
  data_ = ::operator new(bytes);
  std::memset(data_, 0xff, bytes);  // NaN in every format
}
Memory::~Memory() { ::operator delete(data_); }

struct Graph::State {
  std::vector<std::function<void()>> work;
};

struct Stream::State {
  std::shared_ptr<Graph::State> captured;  // null while nothing is being captured

  void run(std::function<void()> work) {
    if (captured) {
      captured->work.push_back(std::move(work));
    } else {
      work();
    }
  }
};

Stream::Stream() : state_(new State) {}
Stream::~Stream() = default;

void Stream::copy_to_device(void* to, const void* from, std::size_t bytes) {
  state_->run([=] { std::memcpy(to, from, bytes); });
}
void Stream::copy_to_host(void* to, const void* from, std::size_t bytes) {
  copy_to_device(to, from, bytes);
}
void Stream::fill(void* to, int byte, std::size_t bytes) {
  state_->run([=] { std::memset(to, byte, bytes); });
}
void Stream::synchronize() {}

void Stream::begin_capture() { state_->captured = std::make_shared<Graph::State>(); }
Graph Stream::end_capture() { return Graph(std::exchange(state_->captured, nullptr)); }
void Stream::launch(const Graph& graph) {
  for (const auto& work : graph.state().work) work();
}

float Stream::time(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<float, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

void Stream::launch_kernel(const void*, Grid, unsigned, std::size_t, void**) {
  throw std::logic_error("this build runs on the CPU");
}

void Stream::run_emulated(Grid grid, unsigned threads, std::size_t shared_bytes,
                          std::function<void()> kernel) {
  state_->run(
      [=] { emulation::run({grid.x, grid.y, grid.z}, {threads, 1, 1}, shared_bytes, kernel); });
}

}  // namespace asa::cuda
