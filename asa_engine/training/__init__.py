"""Training: corpora, recipes, the loop. Needs torch; the engine never imports this at run time."""

from asa_engine.training.loop import train

__all__ = ["train"]
