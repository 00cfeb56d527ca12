"""Training of the text grader."""
