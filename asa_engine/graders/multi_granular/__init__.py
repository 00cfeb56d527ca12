"""The multi-granular grader: sentence, words and phones, with a rationale."""
