"""Metrics: how well predictions agree with annotations."""
