"""The trainer: MuMo on packed features. Imports nothing of the pipeline."""
