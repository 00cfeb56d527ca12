"""Training of the acoustic grader."""
