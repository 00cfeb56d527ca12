"""The acoustic grader: Whisper encoder, acoustic prior, regression head."""
