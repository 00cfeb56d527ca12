"""The speech-LLM grader (S3): audio encoder, projector, language model."""
