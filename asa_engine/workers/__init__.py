"""Processes of our own that answer JSON requests, a line each, on their standard streams.

Nothing is pickled, the parent's open files do not travel, and a process whose parent is gone reads
the end of its input and ends too.
"""

from asa_engine.workers.process import ChildProcess, DiedError, answer_requests

__all__ = ["ChildProcess", "DiedError", "answer_requests"]
