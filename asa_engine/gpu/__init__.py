"""What needs an NVIDIA GPU, or stands in for one: device memory, batches, engines, kernels."""
