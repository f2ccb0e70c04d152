"""The layers that torch.nn lacks."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
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


# --- TensorFlow's padding and Keras's batch norm ------------------------------------------------


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """The pixels that SAME adds before and after an axis, so that ceil(size / stride) come out.

    Where their number is odd, the one that is left over goes behind: bottom and right.
    """
    window = dilation * (kernel - 1) + 1
    total = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def _both(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


@torch.fx.wrap  # a leaf for whoever takes a network apart: the padding follows the input's size
def pad_same(x: Tensor, kernel: Any, stride: Any, dilation: Any = 1, value: float = 0.0) -> Tensor:
    """Pad (n, c, h, w) as SAME does, with `value`; all else is a number or a pair (h, w)."""
    (kh, kw), (sh, sw), (dh, dw) = _both(kernel), _both(stride), _both(dilation)
    top, bottom = same_padding(x.shape[2], kh, sh, dh)
    left, right = same_padding(x.shape[3], kw, sw, dw)
    return F.pad(x, (left, right, top, bottom), value=value)


class SameConv2d(nn.Conv2d):
    """Convolution with SAME padding: (n, c, h, w) -> (n, out_channels, ceil(h/s), ceil(w/s)).

    `nn.Conv2d(padding="same")` knows no strides, and symmetric padding is another function
    wherever TensorFlow pads an odd number of pixels, with the same output shape.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, self.kernel_size, self.stride, self.dilation))


class SameMaxPool2d(nn.MaxPool2d):
    """Max pooling with SAME padding: what is padded never wins."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, self.kernel_size, self.stride, 1, -math.inf))


class SameAvgPool2d(nn.AvgPool2d):
    """Average pooling with SAME padding: the mean of the pixels that exist."""

    def forward(self, x: Tensor) -> Tensor:
        sums = super().forward(pad_same(x, self.kernel_size, self.stride))
        real = torch.ones_like(x[:1, :1])
        return sums / super().forward(pad_same(real, self.kernel_size, self.stride))


@torch.fx.wrap
def keras_batch_norm(
    x: Tensor, running_mean: Any, running_var: Any, weight: Tensor, bias: Tensor,
    training: bool, momentum: Any, eps: float,
) -> Tensor:  # fmt: skip
    """`F.batch_norm`, but `running_var` takes the biased variance of the batch, as Keras's does."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    mean, var = running_mean.clone(), running_var.clone()  # autograd keeps what it is given
    y = F.batch_norm(x, mean, var, weight, bias, True, momentum, eps)
    n = x.numel() // x.shape[1]
    with torch.no_grad():  # var is now kept + momentum * n / (n - 1) * the batch's biased variance
        kept = (1 - momentum) * running_var
        running_mean.copy_(mean)
        running_var.copy_(kept + (var - kept) * ((n - 1) / n))
    return y


class KerasBatchNorm2d(nn.BatchNorm2d):
    """Batch norm as Keras does it: eps 1e-3, momentum 0.99 (0.01 here), biased moving variance."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return keras_batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                                self.training, self.momentum, self.eps)  # fmt: skip


def init_as_keras(net: nn.Sequential) -> nn.Sequential:
    """Glorot uniform kernels and zero biases, in place (Glorot and Bengio 2010)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


# --- their hand-written twins: SAME padding is the same, what it goes on to is not ---------------


class _SameConv2d(SameConv2d, network.Conv2d):
    """SAME convolution by `scratch.conv2d`."""


class _SameMaxPool2d(SameMaxPool2d, network.MaxPool2d):
    """SAME max pooling by `scratch.max_pool2d`."""


class _SameAvgPool2d(SameAvgPool2d, network.AvgPool2d):
    """SAME average pooling by `scratch.avg_pool2d`."""


class _KerasBatchNorm2d(KerasBatchNorm2d):
    """Keras's batch norm by `scratch.batch_norm`, which keeps the biased variance as well."""

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self  # whose statistics are never None
        gamma, beta, mean, var = (
            t.view(1, -1, 1, 1)
            for t in (layer.weight, layer.bias, layer.running_mean, layer.running_var)
        )
        y, new_mean, new_var = batch_norm(
            self.training, x, gamma, beta, mean, var, self.eps, 1 - layer.momentum
        )
        if self.training:
            mean.copy_(new_mean)
            var.copy_(new_var)
        return y


network.BY_HAND |= {
    FlattenLayer: FlattenLayer, GlobalAvgPool2d: GlobalAvgPool2d, BatchNorm: BatchNorm,
    SameConv2d: _SameConv2d, SameMaxPool2d: _SameMaxPool2d, SameAvgPool2d: _SameAvgPool2d,
    KerasBatchNorm2d: _KerasBatchNorm2d,
}  # fmt: skip
