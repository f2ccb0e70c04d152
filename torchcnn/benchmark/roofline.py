"""The roofline: a bound on the speed of a step, from its operations and bytes.

See Williams et al. 2009 ("Roofline: an insightful visual performance model").
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class ByteCounter(TorchDispatchMode):
    """Counts the bytes that all operations read and write, except views and empty tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view and "empty" not in func.name():
            schema = func._schema.arguments
            values = dict(zip((a.name for a in schema), args, strict=False)) | kwargs
            changed = [a.name for a in schema if a.alias_info and a.alias_info.is_write]
            written = [values[name] for name in changed if name in values]
            self.bytes += size_of((args, kwargs)) + size_of((out, written))
        return out


def size_of(tree: Any) -> int:
    """Return the bytes of all tensors in nested containers, each counted once."""
    tensors = {id(t): t for t in tree_leaves(tree) if isinstance(t, Tensor)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def count(step: Callable[[], object]) -> tuple[int, int]:
    """Return the floating-point operations and the bytes of `step()`.

    A multiply-accumulate counts as two operations.
    """
    with FlopCounterMode(display=False) as flops, ByteCounter() as traffic:
        step()
    return flops.get_total_flops(), traffic.bytes


def machine_rates(device: torch.device, repeats: int = 10) -> tuple[float, float]:
    """Measure the highest operations per second and bytes per second of a device.

    The first are those of a matrix product, the second those of a copy, for which each byte is
    counted twice because it is read and written.
    """
    side, size = (8192, 2**28) if device.type == "cuda" else (2048, 2**26)
    a, b = torch.randn(2, side, side, device=device)
    source, target = torch.zeros(2, size, device=device)

    def fastest(work: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            times.append(time.perf_counter() - began)
        return min(times)

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as convolutions use it
    try:
        operations = 2 * side**3 / fastest(lambda: a @ b)
    finally:
        torch.set_float32_matmul_precision(precision)
    return operations, 8 * size / fastest(lambda: target.copy_(source))


def least_seconds(flops: int, traffic: int, rates: tuple[float, float]) -> float:
    """Return the time that a step takes at least: the longer of its operations and its bytes.

    >>> least_seconds(flops=200, traffic=100, rates=(100.0, 20.0))
    5.0
    """
    return max(flops / rates[0], traffic / rates[1])
