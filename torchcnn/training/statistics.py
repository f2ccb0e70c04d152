"""Moving statistics of norms: how far they lag behind the weights, and how to catch up."""

import copy
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from torchcnn.data.loader import Batches
from torchcnn.layers import BatchNorm
from torchcnn.models.weights import train_mode
from torchcnn.training.loop import eval_mode

# The share of their first values in moving statistics that can matter: with 2.3%, after an epoch of
# the sample, ResNet-20 is right for 12% of the validation images, and with none for 73%.
LAG = 1e-3


def moved_norms(net: nn.Module) -> Iterator[tuple[str, float]]:
    """Yield the name of each norm whose statistics training moves, and what a pass keeps of them.

    A norm without a momentum has the mean of all passes, which is not of this kind.
    """
    with eval_mode(net):  # which puts the modes back
        train_mode(net)
        trained = [(name, module) for name, module in net.named_modules() if module.training]
    for name, norm in trained:
        if not any(True for _ in norm.buffers(recurse=False)):
            continue
        if isinstance(norm, BatchNorm):
            yield name, norm.momentum
        elif isinstance(norm, _NormBase) and norm.momentum is not None:
            yield name, 1 - norm.momentum


def lag(net: nn.Module, epochs: Sequence[Any], parts: int) -> float:
    """Return how much of the moving statistics still is what they began with; 0 without such norms.

    With torch's norm it is half after 7 passes, with Keras's after 69.

    Args:
        epochs: all that were made, which have their `step_losses`.
        parts: into which each step is cut.
    """
    passes = parts * sum(len(epoch.step_losses) for epoch in epochs)
    return max((kept**passes for _, kept in moved_norms(net)), default=0.0)


@torch.no_grad()
def estimate_statistics(net: nn.Module, eval_net: nn.Module, batches: Batches) -> None:
    """Replace the moving statistics by those of ten batches, without augmentation or dropout.

    The same batches each time. `torch.optim.swa_utils.update_bn` does so for torch's norms, in
    training mode.

    Args:
        net: the network that is trained, which says whose norms are moved.
        eval_net: the network to evaluate, whose statistics are replaced: it, or its average.
    """
    batches = copy.copy(batches)
    batches.augment, batches.mix, batches.epoch, batches.start = (), None, 0, 0
    norms = [(eval_net.get_submodule(name), kept) for name, kept in moved_norms(net)]
    moving = [[b for b in n.buffers(recurse=False) if b.is_floating_point()] for n, _ in norms]
    tensors = [tensor for pair in moving for tensor in pair]  # a mean and a variance of each
    sums, images = [torch.zeros_like(tensor) for tensor in tensors], 0
    with eval_mode(eval_net):
        for norm, _ in norms:
            norm.training = True
        for x, _ in islice(batches, 10):
            torch._foreach_zero_(tensors)  # so that a pass leaves its own share alone
            eval_net.forward(x)  # which is not compiled for so few passes
            torch._foreach_add_(sums, tensors, alpha=len(x))
            images += len(x)
    shares = [images * (1 - kept) for _, kept in norms for _ in range(2)]
    torch._foreach_copy_(tensors, torch._foreach_div(sums, shares))
