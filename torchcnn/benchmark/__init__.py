"""Measures the speed of training, in comparison with other ways to train."""
