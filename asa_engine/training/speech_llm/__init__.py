"""Training of the speech-LLM grader."""
