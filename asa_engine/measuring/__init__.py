"""What is timed and compared, in processes of its own: for benchmarks and for tuning."""
