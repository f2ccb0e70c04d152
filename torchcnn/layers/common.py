"""Layers that torch.nn does not provide."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from torchcnn.scratch import batch_norm, global_avg_pool2d, network

torch.fx.wrap("batch_norm")  # its checks depend on the shape, which tracing does not know
NormLayer = Callable[[int], nn.Module]  # num_features -> a layer for (n, num_features, h, w)


class FlattenLayer(nn.Module):
    """Flatten all dimensions after the batch: (n, ...) -> (n, features), in any memory format."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class GlobalAvgPool2d(nn.Module):
    """Average each channel over all of its pixels: (n, c, h, w) -> (n, c, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return global_avg_pool2d(x)


class BatchNorm(nn.Module):
    """Batch normalisation from scratch (arXiv:1502.03167): `scratch.batch_norm` as a layer.

    (n, c) -> (n, c) with `num_dims=2`, (n, c, h, w) -> (n, c, h, w) with `num_dims=4`. The moving
    statistics are buffers, so `state_dict()` contains them and `.to()` moves them. The moving mean
    starts at 0 and the moving variance at 1, so before any training the layer in `eval()` mode
    returns its input unchanged, apart from `eps`.

    Args:
        momentum: The fraction of the old moving statistics that each training step keeps.

    Raises:
        ValueError: If `num_dims` is neither 2 nor 4, or the input has a different number of
            dimensions.
    """

    moving_mean: Tensor
    moving_var: Tensor

    def __init__(
        self, num_features: int, num_dims: int = 4, eps: float = 1e-5, momentum: float = 0.9
    ) -> None:
        super().__init__()
        if num_dims not in (2, 4):
            raise ValueError(f"num_dims must be 2 for (n, c) or 4 for (n, c, h, w), got {num_dims}")
        self.eps, self.momentum = eps, momentum
        shape = (1, num_features) if num_dims == 2 else (1, num_features, 1, 1)
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))
        self.register_buffer("moving_mean", torch.zeros(shape))
        self.register_buffer("moving_var", torch.ones(shape))

    def forward(self, X: Tensor) -> Tensor:
        moving = (self.moving_mean, self.moving_var)
        Y, mean, var = batch_norm(
            self.training, X, self.gamma, self.beta, *moving, self.eps, self.momentum
        )
        if self.training:
            self.moving_mean.copy_(mean)
            self.moving_var.copy_(var)
        return Y

    def extra_repr(self) -> str:
        return f"{self.gamma.shape[1]}, num_dims={self.gamma.dim()}"


def unchanged(module: nn.Module) -> bool:
    """Whether a module has no forward pass of its own, beside its class's, and no hooks around it.

    Either may change what goes in and comes out.
    """
    own = "forward" in vars(module)
    return not (own or module._forward_hooks or module._forward_pre_hooks)


def as_defined(module: nn.Module) -> bool:
    """Whether a module computes what its class in torch.nn or torchcnn does, and no more."""
    where = getattr(type(module).forward, "__module__", "")
    ours = where.startswith(("torch.nn.modules.", "torchcnn."))
    return ours and type(module).__call__ is nn.Module.__call__ and unchanged(module)


def vector_norm(norm_layer: NormLayer) -> NormLayer:
    """Return the norm for vectors (n, c) that corresponds to a norm for images (n, c, h, w).

    If there is no such layer, the vectors are normalised as images of a single pixel.
    """
    if norm_layer is nn.BatchNorm2d:
        return nn.BatchNorm1d
    if norm_layer is BatchNorm:
        return partial(BatchNorm, num_dims=2)
    return lambda c: nn.Sequential(nn.Unflatten(1, (c, 1, 1)), norm_layer(c), FlattenLayer())


# These layers already are hand-written and need no replacement.
network.BY_HAND |= {layer: layer for layer in (FlattenLayer, GlobalAvgPool2d, BatchNorm)}
