"""Texture matrices of a region in grey levels, and the features of each, with PyRadiomics' numbers and names."""
