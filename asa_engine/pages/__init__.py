"""Self-contained HTML pages: tables and pictures in one file, no scripts, nothing fetched."""

from asa_engine.pages.bars import Bar, bar_chart
from asa_engine.pages.html import page, table

__all__ = ["Bar", "bar_chart", "page", "table"]
