"""Slides: reading, annotations and tissue, bags, colour, quality pictures."""
