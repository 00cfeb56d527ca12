"""Benchmarks, a package of its own: pyarrow 17 installs another by this name."""
