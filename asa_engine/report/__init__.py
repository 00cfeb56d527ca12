"""What a teacher reads: a class and its learners on pages, from results that are there.

rows -> Group (who said what, how well, how surely) -> HTML with pictures
"""

from asa_engine.report.gather import Group, gather
from asa_engine.report.page import class_page, learner_page, whole_page

__all__ = ["Group", "class_page", "gather", "learner_page", "whole_page"]
