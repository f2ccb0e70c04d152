"""TensorFlow's SAME padding, Keras's batch norm and initialisation, with hand-written versions."""

import math
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from torchcnn.scratch import batch_norm, network

torch.fx.wrap("batch_norm")  # as in common.py


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return how many pixels SAME adds before and after an axis of `size` pixels.

    The output then has ceil(size / stride) pixels. If the total is odd, the additional pixel is
    added after the axis, that is at the bottom or on the right.
    """
    window = dilation * (kernel - 1) + 1
    total = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def _both(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


# torch.fx must not trace into these, because the padding depends on the input's size.
@torch.fx.wrap
def pad_same(x: Tensor, kernel: Any, stride: Any, dilation: Any = 1, value: float = 0.0) -> Tensor:
    """Pad (n, c, h, w) with `value` as SAME does.

    `kernel`, `stride` and `dilation` each are a number or a pair (height, width).
    """
    (top, bottom), (left, right) = _sides(x, kernel, stride, dilation)
    return F.pad(x, (left, right, top, bottom), value=value)


@torch.fx.wrap
def same_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, dilation: Any, groups: int
) -> Tensor:
    """Convolve (n, c, h, w) with SAME padding.

    A padded copy of x is made only if there is more padding at one side than at the other, which
    a convolution itself cannot add.
    """
    (top, bottom), (left, right) = _sides(x, weight.shape[2:], stride, dilation)
    padding = (top, left)
    if padding != (bottom, right):
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


@torch.fx.wrap
def same_max_pool2d(x: Tensor, kernel: Any, stride: Any) -> Tensor:
    """Pad (n, c, h, w) with minus infinity as SAME does, and take the maxima.

    For strides above 1 an additional row or column of padding is not added: the last windows are
    cut off at the edge, which gives the same maxima and needs no copy.
    """
    sides = _sides(x, kernel, stride, 1)
    padding = tuple(before for before, _ in sides)
    uneven = any(before != after for before, after in sides)
    axes = zip(_both(kernel), _both(stride), strict=True)
    if uneven and not all(1 < step <= size for size, step in axes):
        x, padding, uneven = pad_same(x, kernel, stride, 1, -math.inf), (0, 0), False
    return F.max_pool2d(x, kernel, stride, padding, ceil_mode=uneven)


def _sides(x: Tensor, kernel: Any, stride: Any, dilation: Any) -> tuple[tuple[int, int], ...]:
    sizes = x.shape[2:], _both(kernel), _both(stride), _both(dilation)
    return tuple(same_padding(*axis) for axis in zip(*sizes, strict=True))


class SameConv2d(nn.Conv2d):
    """Convolution with SAME padding: (n, c, h, w) -> (n, out_channels, ceil(h/s), ceil(w/s)).

    `nn.Conv2d(padding="same")` does not support strides. Where TensorFlow pads by an odd number of
    pixels, symmetric padding gives the same output shape but different values.
    """

    def forward(self, x: Tensor) -> Tensor:
        options = (self.stride, self.dilation, self.groups)
        return same_conv2d(x, self.weight, self.bias, *options)


class SameMaxPool2d(nn.MaxPool2d):
    """Max pooling with SAME padding; the padding is minus infinity and never is the maximum."""

    def forward(self, x: Tensor) -> Tensor:
        return same_max_pool2d(x, self.kernel_size, self.stride)


class SameAvgPool2d(nn.AvgPool2d):
    """Average pooling with SAME padding; padded pixels are not counted in the average."""

    def forward(self, x: Tensor) -> Tensor:
        sums = super().forward(pad_same(x, self.kernel_size, self.stride))
        real = torch.ones_like(x[:1, :1])
        return sums / super().forward(pad_same(real, self.kernel_size, self.stride))


@torch.fx.wrap
def keras_batch_norm(
    x: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: Any,
    eps: float,
) -> Tensor:
    """`F.batch_norm`, but `running_var` is updated with the biased batch variance, as in Keras."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    var = running_var.clone()  # autograd saves it, so that it must not change afterwards
    y = F.batch_norm(x, running_mean, var, weight, bias, True, momentum, eps)
    n = x.numel() // x.shape[1]
    with torch.no_grad():  # var is kept + momentum * n / (n - 1) * the biased batch variance
        running_var.mul_(1 - momentum).lerp_(var, (n - 1) / n)
    return y


class KerasBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with Keras's defaults: (n, c, h, w) -> (n, c, h, w).

    These are an eps of 1e-3, a momentum of 0.99 (0.01 in torch) and a biased moving variance.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        moving = (self.running_mean, self.running_var)
        return keras_batch_norm(
            x, *moving, self.weight, self.bias, self.training, self.momentum, self.eps
        )


def init_as_keras(net: nn.Sequential) -> nn.Sequential:
    """Set weights to Glorot uniform values (Glorot and Bengio 2010) and biases to 0, in place."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


# --- hand-written versions: the padding is the same, the operation behind it is from scratch -----


class _SameConv2d(SameConv2d, network.Conv2d):
    """Convolution with SAME padding, computed by `scratch.conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        x = pad_same(x, self.kernel_size, self.stride, self.dilation)
        return network.Conv2d.forward(self, x)


class _SameMaxPool2d(SameMaxPool2d, network.MaxPool2d):
    """Max pooling with SAME padding, computed by `scratch.max_pool2d`."""

    def forward(self, x: Tensor) -> Any:
        x = pad_same(x, self.kernel_size, self.stride, 1, -math.inf)
        return network.MaxPool2d.forward(self, x)


class _SameAvgPool2d(SameAvgPool2d, network.AvgPool2d):
    """Average pooling with SAME padding, computed by `scratch.avg_pool2d`."""


class _KerasBatchNorm2d(KerasBatchNorm2d):
    """Keras's batch norm, computed by `scratch.batch_norm`, which also uses the biased variance."""

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self  # its running statistics are never None
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
    SameConv2d: _SameConv2d,
    SameMaxPool2d: _SameMaxPool2d,
    SameAvgPool2d: _SameAvgPool2d,
    KerasBatchNorm2d: _KerasBatchNorm2d,
}
