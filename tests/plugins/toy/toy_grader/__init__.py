"""A grader of another package: loudness, from one learned offset."""
