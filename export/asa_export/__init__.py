"""Export of trained graders: load -> validate -> optimise -> save, gated on score drift."""
