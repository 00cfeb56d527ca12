"""The CUDA kernels of `kernels/cuda`, compiled ahead, without any library but the driver."""
