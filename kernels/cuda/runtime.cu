#include <cuda_runtime.h>

#include <utility>

#include "device.h"

namespace asa::cuda {
namespace {

constexpr int kOldestMajor = 8;  // compute capability, of copies in the background
constexpr std::size_t kUsualSharedBytes = 48 << 10;  // more must be asked for

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

std::string version_of(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

}  // namespace

Machine machine() {
  int driver = 0, runtime = 0, devices = 0;
  check(cudaRuntimeGetVersion(&runtime), "CUDA's version");
  cudaDriverGetVersion(&driver);
  if (driver == 0)
    throw Unavailable("there is no NVIDIA driver; install one, or use another backend");
  if (driver / 1000 < runtime / 1000) {
    throw Unavailable("the NVIDIA driver supports CUDA " + version_of(driver) +
                      " and the kernels were built with " + version_of(runtime) +
                      "; install a newer driver");
  }
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess || !devices) {
    cudaGetLastError();
    throw Unavailable(std::string("there is no GPU to use (") +
                      (error == cudaSuccess ? "none is visible" : cudaGetErrorString(error)) +
                      "); see nvidia-smi and CUDA_VISIBLE_DEVICES");
  }
  cudaDeviceProp properties;
  int device = 0;
  check(cudaGetDevice(&device), "the current GPU");
  check(cudaGetDeviceProperties(&properties, device), "the GPU's properties");
  if (properties.major < kOldestMajor) {
    throw Unavailable(std::string(properties.name) + " has compute capability " +
                      std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                      "; the kernels need 8.0 or later: use another backend");
  }
  Machine found{properties.name,
                properties.major,
                properties.minor,
                version_of(driver),
                version_of(runtime),
                0,
                0};
  check(cudaMemGetInfo(&found.free_bytes, &found.total_bytes), "the GPU's memory");
  return found;
}

Memory::Memory(Place place, std::size_t bytes) : place_(place), bytes_(bytes) {
  if (!bytes) return;
  check(place == Place::device ? cudaMalloc(&data_, bytes) : cudaMallocHost(&data_, bytes),
        "memory for the GPU");
}
Memory::~Memory() {
  if (!data_) return;
  if (place_ == Place::device) {
    cudaFree(data_);
  } else {
    cudaFreeHost(data_);
  }
}

struct Graph::State {
  cudaGraphExec_t graph = nullptr;
  ~State() { cudaGraphExecDestroy(graph); }
};

struct Stream::State {
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
};

Stream::Stream() : state_(new State) {
  check(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking), "a stream");
  check(cudaEventCreate(&state_->begin), "an event");
  check(cudaEventCreate(&state_->end), "an event");
}
Stream::~Stream() {
  cudaEventDestroy(state_->begin);
  cudaEventDestroy(state_->end);
  cudaStreamDestroy(state_->stream);
}

void Stream::copy_to_device(void* to, const void* from, std::size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, state_->stream),
        "copy to the GPU");
}
void Stream::copy_to_host(void* to, const void* from, std::size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, state_->stream),
        "copy from the GPU");
}
void Stream::fill(void* to, int byte, std::size_t bytes) {
  check(cudaMemsetAsync(to, byte, bytes, state_->stream), "fill the GPU's memory");
}
void Stream::synchronize() { check(cudaStreamSynchronize(state_->stream), "work on the GPU"); }

void Stream::begin_capture() {
  check(cudaStreamBeginCapture(state_->stream, cudaStreamCaptureModeThreadLocal), "a graph");
}
Graph Stream::end_capture() {
  cudaGraph_t captured = nullptr;
  check(cudaStreamEndCapture(state_->stream, &captured), "a graph");
  auto state = std::make_shared<Graph::State>();
  const cudaError_t error = cudaGraphInstantiate(&state->graph, captured, 0);
  cudaGraphDestroy(captured);
  check(error, "a graph");
  return Graph(std::move(state));
}
void Stream::launch(const Graph& graph) {
  check(cudaGraphLaunch(graph.state().graph, state_->stream), "a graph");
}

float Stream::time(const std::function<void()>& work) {
  check(cudaEventRecord(state_->begin, state_->stream), "an event");
  work();
  check(cudaEventRecord(state_->end, state_->stream), "an event");
  check(cudaEventSynchronize(state_->end), "work on the GPU");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, state_->begin, state_->end), "an event");
  return milliseconds;
}

void Stream::launch_kernel(const void* kernel, Grid grid, unsigned threads,
                           std::size_t shared_bytes, void** arguments) {
  if (shared_bytes > kUsualSharedBytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "shared memory");
  }
  check(cudaLaunchKernel(kernel, dim3(grid.x, grid.y, grid.z), dim3(threads), arguments,
                         shared_bytes, state_->stream),
        "a kernel");
}

void Stream::run_emulated(Grid, unsigned, std::size_t, std::function<void()>) {
  throw std::logic_error("this build runs on a GPU");
}

}  // namespace asa::cuda
