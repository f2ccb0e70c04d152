"""Batch normalisation with statistics that are computed over the batches of all ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchcnn.layers import KerasBatchNorm2d, as_defined


def _sum(x: Tensor) -> Tensor:
    """Sum a tensor over all ranks; the gradient is summed over all ranks as well."""

    def summed(x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x.detach())  # in place
        return x

    y = summed(x)
    if y.requires_grad:
        y.register_hook(summed)
    return y


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the statistics of the whole batch, split equally among `count` ranks.

    (n, c, ...) -> (n, c, ...). It runs on CPUs too, which `nn.SyncBatchNorm` does not, and its
    moving variance is biased where it replaces Keras's batch norm. Parameters and buffers are
    those of `norm`.
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
        layer: Any = self
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        n, dtype = x.numel() // x.shape[1] * self.count, x.dtype
        x = x.to(torch.promote_types(dtype, torch.float32))
        mean = _sum(x.sum(dims)) / n
        centred = x - mean.view(shape)
        var = _sum(centred.square().sum(dims)) / n
        if layer.running_mean is not None:
            with torch.no_grad():
                layer.num_batches_tracked.add_(not self.biased)  # Keras does not count batches
                share = layer.momentum
                if share is None:  # statistics are the mean over all batches
                    share = 1 / layer.num_batches_tracked.item()
                layer.running_mean.lerp_(mean.to(layer.running_mean), share)
                kept = var if self.biased else var * (n / (n - 1))
                layer.running_var.lerp_(kept.to(layer.running_var), share)
        scale = (var + self.eps).rsqrt()
        if self.weight is None:
            return (centred * scale.view(shape)).to(dtype)
        scale = self.weight * scale
        return (centred * scale.view(shape) + self.bias.view(shape)).to(dtype)


def sync_batch_norm(net: nn.Module, count: int) -> nn.Module:
    """Replace each batch norm of `net` by a `SyncBatchNorm`; parameters keep their names.

    With a `count` of 1 nothing is replaced, and the same is refused.

    Raises:
        ValueError: the network has no batch norm of torch.nn, or one does more than its class.
    """
    kind = nn.modules.batchnorm._BatchNorm
    norms = [module for module in net.modules() if isinstance(module, kind)]
    if not norms:
        raise ValueError("--sync-bn: the network has no batch norm of torch's kind (BatchNorm2d)")
    if own := [type(norm).__name__ for norm in norms if not as_defined(norm)]:
        raise ValueError(f"--sync-bn: {own[0]} has hooks or a forward pass of its own")
    synced: dict[Any, nn.Module] = {norm: SyncBatchNorm(norm, count) for norm in norms if count > 1}
    for parent in list(net.modules()):  # a norm that is in several places is a single one in all
        for name, child in parent._modules.items():
            parent._modules[name] = synced.get(child, child)
    return synced.get(net, net)
