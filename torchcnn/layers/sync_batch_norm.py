"""Batch norm over the batch of all ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchcnn.layers.tensorflow import KerasBatchNorm2d


class _Sum(torch.autograd.Function):
    """The sum over the ranks; what flows back to it is the sum of what flows back on each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the statistics of the whole batch, of which each rank has an equal share.

    (n, c, ...) -> (n, c, ...). `nn.SyncBatchNorm` is for GPUs only, and keeps the unbiased
    variance where Keras keeps the biased one.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, count: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, device="meta")
        self.count, self.biased = count, isinstance(norm, KerasBatchNorm2d)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        layer: Any = self  # whose statistics are never None
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        n, dtype = x.numel() // x.shape[1] * self.count, x.dtype
        x = x.to(torch.promote_types(dtype, torch.float32))
        mean = _Sum.apply(x.sum(dims)) / n
        centred = x - mean.view(shape)
        var = _Sum.apply(centred.square().sum(dims)) / n
        with torch.no_grad():
            layer.num_batches_tracked.add_(not self.biased)  # Keras counts none
            layer.running_mean.lerp_(mean.to(layer.running_mean), layer.momentum)
            kept = var if self.biased else var * (n / (n - 1))
            layer.running_var.lerp_(kept.to(layer.running_var), layer.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(dtype)


def sync_batch_norm(net: nn.Module, count: int) -> nn.Module:
    """Let every batch norm of `net` see the batch of all ranks; same parameters, same names.

    Raises:
        ValueError: there is none, or one that is not torch's kind.
    """
    found = [name for name, module in net.named_modules()
             if isinstance(module, nn.modules.batchnorm._BatchNorm)]  # fmt: skip
    if not found:
        raise ValueError("--sync-bn finds no batch norm of torch's kind in this network")
    for name in found if count > 1 else ():
        parent, _, child = name.rpartition(".")
        norm: Any = net.get_submodule(name)
        setattr(net.get_submodule(parent), child, SyncBatchNorm(norm, count))
    return net
