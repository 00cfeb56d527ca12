"""The acoustic grader's GPU kernels in Triton, for ragged batches of windows.

One file a kernel, `tiles.py` for their tile sizes, `model.py` for the order they run in and
`device.py` for the GPU they run on. With `TRITON_INTERPRET=1` all of it runs on the CPU, slowly.
"""
