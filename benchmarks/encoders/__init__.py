"""Times Whisper encoders alone: the same weights, mel and threads, turn by turn."""
