"""Speech to words while the learner speaks: Whisper, window by window, without PyTorch.

A window closes at a pause and is transcribed once; what is left at the end is the open one.
"""

from asa_engine.recogniser.guards import FATAL, REASONS
from asa_engine.recogniser.recognition import Recogniser, Recognition, Transcript
from asa_engine.recogniser.whisper import PRECISIONS

__all__ = ["FATAL", "PRECISIONS", "REASONS", "Recogniser", "Recognition", "Transcript"]
