"""The pronunciation grader: which word, which sound."""
