"""Export of trained graders: load -> validate -> optimise -> save, gated on score drift."""

import asa_engine  # noqa: F401  (before any dependency: it switches their telemetry off)
