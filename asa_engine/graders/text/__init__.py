"""The text grader (S1): Whisper's words, BERT, classes."""
