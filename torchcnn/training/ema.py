"""An exponential moving average of a network's weights, which is often the better network."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """An exponential moving average of a network's weights and buffers, in the copy `module`.

    Of a short run, a decay near 1 would keep little but the first weights. The decay of the n-th
    update is therefore at most (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage.
    `torch.optim.swa_utils.AveragedModel` computes the same with such a `multi_avg_fn`, but keeps
    its count in a tensor, for which a GPU waits in every step.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.module, self.decay, self.count = deepcopy(net).requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """average <- decay * average + (1 - decay) * weights; the first time, the weights."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        weight = 1 - decay if self.count else 1.0
        pairs = list(zip(_tensors(self.module), _tensors(net), strict=True))
        averages, weights = zip(*(p for p in pairs if p[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(averages, weights, weight)
        if counts := [p for p in pairs if not p[0].is_floating_point()]:  # of batch norm's batches
            averages, weights = zip(*counts, strict=True)
            torch._foreach_copy_(averages, weights)
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.module.state_dict(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["weights"])
        self.count = int(state["count"])


def _tensors(net: nn.Module) -> Iterator[Tensor]:
    yield from net.parameters()
    yield from net.buffers()
