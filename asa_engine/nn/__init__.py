"""Torch blocks shared by the graders. Only `config` is imported at run time."""
