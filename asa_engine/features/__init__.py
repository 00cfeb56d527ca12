"""Features computed from 16 kHz audio, incrementally, without PyTorch."""
