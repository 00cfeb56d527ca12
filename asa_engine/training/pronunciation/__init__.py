"""Training of the pronunciation grader."""
