"""mumo: from the raw material of a cancer cohort to cached feature stores, and MuMo trained on them."""

__version__ = "0.1.0"
