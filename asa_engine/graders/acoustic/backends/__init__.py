"""What runs the acoustic grader: one file a backend."""
