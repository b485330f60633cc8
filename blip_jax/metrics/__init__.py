"""Metrics: plain Python and NumPy over predictions and references."""
