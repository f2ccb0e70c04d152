"""Measures speed and memory of training, in comparison with other ways to train."""
