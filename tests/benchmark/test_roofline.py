"""The roofline: operations and bytes against what can be counted on paper."""

import doctest

import torch

from torchcnn.benchmark import roofline


def test_operations_and_bytes_of_a_matrix_product():
    """2·3·4·5 operations; 12 + 20 numbers read and 15 written, of 4 bytes; views cost nothing."""
    a, b = torch.ones(3, 4), torch.ones(5, 4)
    assert roofline.count(lambda: a @ b.T) == (2 * 3 * 4 * 5, 4 * (12 + 20 + 15))


def test_what_is_written_in_place_counts_twice():
    a, b = torch.ones(3, 4), torch.empty(3, 4)
    assert roofline.count(lambda: a.add_(1)) == (0, 4 * (12 + 12))
    assert roofline.count(lambda: torch.add(a, 1, out=b)) == (0, 4 * (12 + 12 + 12))


def test_the_longer_of_operations_and_bytes_is_the_bound():
    assert roofline.least_seconds(200, 100, (100.0, 20.0)) == 5
    assert roofline.least_seconds(200, 10, (100.0, 20.0)) == 2


def test_the_rates_of_this_machine():
    assert min(roofline.machine_rates(torch.device("cpu"), repeats=1)) > 1e8


def test_doctests():
    result = doctest.testmod(roofline)
    assert result.failed == 0 and result.attempted == 1
