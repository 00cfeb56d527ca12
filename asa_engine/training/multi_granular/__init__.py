"""Training of the multi-granular grader."""
