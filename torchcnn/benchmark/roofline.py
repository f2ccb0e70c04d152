"""How fast a step could be: its operations and bytes against the machine's best rates.

The roofline of Williams et al. 2009 ("Roofline: an insightful visual performance model").
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
    """Bytes that all operations read and write; views and empty tensors cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.name():
            given = {a.name: a for a in func._schema.arguments if a.alias_info}
            named = dict(zip((a.name for a in func._schema.arguments), args, strict=False))
            written = [value for name, value in (named | (kwargs or {})).items()
                       if name in given and given[name].alias_info.is_write]  # fmt: skip
            self.bytes += size_of((args, kwargs)) + size_of((out, written))
        return out


def size_of(tree: Any) -> int:
    """Bytes of the tensors in it, each once."""
    tensors = {id(t): t for t in tree_leaves(tree) if isinstance(t, Tensor)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def count(step: Callable[[], object]) -> tuple[int, int]:
    """Floating-point operations and bytes of what `step` does; a multiply-add is two operations."""
    with FlopCounterMode(display=False) as flops, ByteCounter() as traffic:
        step()
    return flops.get_total_flops(), traffic.bytes


def machine_rates(device: torch.device, repeats: int = 10) -> tuple[float, float]:
    """The best measured operations per second, of a product of matrices, and bytes per second, of
    a copy, which reads and writes each."""
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
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, where convolutions take it too
    try:
        operations = 2 * side**3 / fastest(lambda: a @ b)
    finally:
        torch.set_float32_matmul_precision(precision)
    return operations, 8 * size / fastest(lambda: target.copy_(source))


def least_seconds(flops: int, traffic: int, rates: tuple[float, float]) -> float:
    """The roofline: whichever takes longer, the operations or the bytes.

    >>> least_seconds(flops=200, traffic=100, rates=(100.0, 20.0))
    5.0
    """
    return max(flops / rates[0], traffic / rates[1])
