"""The layers that torch.nn lacks."""

from collections.abc import Callable
from functools import partial

import torch
import torch.fx
from torch import Tensor, nn

from torchcnn.scratch import batch_norm, global_avg_pool2d, network

NormLayer = Callable[[int], nn.Module]  # num_features -> a layer for (n, num_features, h, w)


class FlattenLayer(nn.Module):
    """(n, ...) -> (n, product of the rest), in any memory format."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class GlobalAvgPool2d(nn.Module):
    """The mean of every channel: (n, c, h, w) -> (n, c, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return global_avg_pool2d(x)


class BatchNorm(nn.Module):
    """Batch normalisation from scratch (arXiv:1502.03167): `scratch.batch_norm` as a layer.

    (n, c) -> (n, c) with `num_dims=2`, (n, c, h, w) -> (n, c, h, w) with `num_dims=4`. The moving
    statistics are buffers: they travel with `state_dict()` and `.to()`. The moving mean starts at
    0 and the moving variance at 1, so that `eval()` before any training changes nothing.

    Args:
        momentum: the share of the old statistics that a training step keeps.

    Raises:
        ValueError: `num_dims` is neither 2 nor 4, or the input has another shape.
    """

    moving_mean: Tensor
    moving_var: Tensor

    def __init__(
        self, num_features: int, num_dims: int = 4, eps: float = 1e-5, momentum: float = 0.9
    ) -> None:
        super().__init__()
        if num_dims not in (2, 4):
            raise ValueError(f"num_dims is 2 for (n, c) or 4 for (n, c, h, w), got {num_dims}")
        self.eps, self.momentum = eps, momentum
        shape = (1, num_features) if num_dims == 2 else (1, num_features, 1, 1)
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))
        self.register_buffer("moving_mean", torch.zeros(shape))
        self.register_buffer("moving_var", torch.ones(shape))

    def forward(self, X: Tensor) -> Tensor:
        Y, mean, var = batch_norm(self.training, X, self.gamma, self.beta, self.moving_mean,
                                  self.moving_var, self.eps, self.momentum)  # fmt: skip
        if self.training:
            self.moving_mean.copy_(mean)
            self.moving_var.copy_(var)
        return Y

    def extra_repr(self) -> str:
        return f"{self.gamma.shape[1]}, num_dims={self.gamma.dim()}"


def vector_norm(norm_layer: NormLayer) -> NormLayer:
    """The twin of an image norm for (n, c); one that has none sees images of a single pixel."""
    if norm_layer is nn.BatchNorm2d:
        return nn.BatchNorm1d
    if norm_layer is BatchNorm:
        return partial(BatchNorm, num_dims=2)
    return lambda c: nn.Sequential(nn.Unflatten(1, (c, 1, 1)), norm_layer(c), FlattenLayer())


network.BY_HAND |= {  # they are written by hand already
    FlattenLayer: FlattenLayer,
    GlobalAvgPool2d: GlobalAvgPool2d,
    BatchNorm: BatchNorm,
}
