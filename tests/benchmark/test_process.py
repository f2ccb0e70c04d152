"""A process of its own: what is called there returns, raises, or ends, and is known of here."""

import os

import pytest

from torchcnn.benchmark.process import own_process


def test_calls_go_to_one_other_process():
    """Which tells its number, raises what it must, and dies: one start, because that takes long."""
    with own_process() as call:
        number = call(os.getpid)
        assert number != os.getpid() and call(os.getpid) == number
        with pytest.raises(ZeroDivisionError):
            call(divmod, 1, 0)
        with pytest.raises(ValueError, match="a process of the benchmark died"):
            call(os._exit, 1)
