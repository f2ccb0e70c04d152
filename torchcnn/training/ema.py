"""A moving average of a network's weights, which often judges better than the weights do."""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn


class MovingAverage:
    """An exponential moving average of a network's weights and statistics, in the copy `module`.

    `torch.optim.swa_utils.AveragedModel` is the same, but keeps its `count` in a tensor, for which
    a GPU waits in every step.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.module, self.decay, self.count = deepcopy(net).requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """average <- decay * average + (1 - decay) * weights; at first, the weights."""
        weight = 1 - self.decay if self.count else 1.0
        pairs = list(zip(_tensors(self.module), _tensors(net), strict=True))
        floats, counts = ([p for p in pairs if p[0].is_floating_point() is kind]
                          for kind in (True, False))  # fmt: skip
        ours, theirs = zip(*floats, strict=True)
        torch._foreach_lerp_(ours, theirs, weight)
        for mine, its in counts:  # of batches, by batch norm
            mine.copy_(its)
        self.count += 1


def _tensors(net: nn.Module) -> Iterator[Tensor]:
    yield from net.parameters()
    yield from net.buffers()
