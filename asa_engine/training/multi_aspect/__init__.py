"""Training of the multi-aspect grader."""
