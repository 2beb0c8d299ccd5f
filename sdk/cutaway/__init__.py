"""cutaway."""
