"""A grader whose package cannot be imported."""
