"""TensorFlow's SAME padding, Keras's batch norm and initialisation, each also by hand."""

import math
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from torchcnn.scratch import batch_norm, network


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


# --- their hand-written twins: the padding is the same, what follows it is not -------------------


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
    SameConv2d: _SameConv2d,
    SameMaxPool2d: _SameMaxPool2d,
    SameAvgPool2d: _SameAvgPool2d,
    KerasBatchNorm2d: _KerasBatchNorm2d,
}
