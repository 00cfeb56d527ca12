"""Takes every figure of a GPU in one command; `--dry` walks the same way on the CPU."""
