"""The multi-aspect grader: content, delivery and language use (system S2)."""
