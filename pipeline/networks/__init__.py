"""Networks for deep features and their weights."""
