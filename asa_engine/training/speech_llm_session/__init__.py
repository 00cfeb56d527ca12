"""Training of the session grader."""
