"""A first cohort file and its tables from a folder of files: what can be read off them, and nothing that cannot."""
