"""A small synthetic cohort in real formats, with a planted signal."""
