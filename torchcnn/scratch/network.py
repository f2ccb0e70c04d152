"""Any network on hand-written layers: the twins of `torch.nn`'s, and `from_scratch`.

A twin is its layer of `torch.nn` with another `forward`: same parameters, same names, same options.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.scratch.activations import leaky_relu, relu, sigmoid, tanh
from torchcnn.scratch.convolution import conv2d
from torchcnn.scratch.dropout import dropout
from torchcnn.scratch.linear import linear
from torchcnn.scratch.normalization import batch_norm
from torchcnn.scratch.pooling import avg_pool2d, max_pool2d
from torchcnn.scratch.windows import pad


class Linear(nn.Linear):
    """(..., d) -> (..., q) by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Conv2d(nn.Conv2d):
    """(n, c, h, w) -> (n, o, h', w') by `conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class MaxPool2d(nn.MaxPool2d):
    """(n, c, h, w) -> (n, c, h', w') by `max_pool2d`."""

    def forward(self, x: Tensor) -> Any:
        return max_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode,
            self.return_indices,
        )  # fmt: skip


class AvgPool2d(nn.AvgPool2d):
    """(n, c, h, w) -> (n, c, h', w') by `avg_pool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override,
        )  # fmt: skip


def _batch_norm(layer: Any, x: Tensor) -> Tensor:
    """`batch_norm` with the parameters, statistics and conventions of one of torch's layers.

    torch's momentum is the share of the new value, and its moving variance takes the unbiased
    variance of a batch: n / (n - 1) times what `batch_norm` puts in.
    """
    shape = (1, x.shape[1], *[1] * (x.dim() - 2))
    ones, zeros = x.new_ones(shape), x.new_zeros(shape)
    gamma = ones if layer.weight is None else layer.weight.view(shape)
    beta = zeros if layer.bias is None else layer.bias.view(shape)
    kept = layer.running_mean is not None
    mean = layer.running_mean.view(shape) if kept else zeros
    var = layer.running_var.view(shape) if kept else ones
    by_batch = layer.training or not kept
    share = layer.momentum
    if layer.training and kept:
        layer.num_batches_tracked.add_(1)
        if share is None:  # the mean of all batches so far
            share = 1 / layer.num_batches_tracked.to(x.dtype)
    share = 0.0 if share is None else share
    y, new_mean, new_var = batch_norm(by_batch, x, gamma, beta, mean, var, layer.eps, 1 - share)
    if layer.training and kept:
        with torch.no_grad():
            n, old = x.numel() / x.shape[1], (1 - share) * var
            layer.running_mean.copy_(new_mean.flatten())
            layer.running_var.copy_((old + (new_var - old) * (n / (n - 1))).flatten())
    return y


class BatchNorm1d(nn.BatchNorm1d):
    """(n, c) -> (n, c), or (n, c, l) -> (n, c, l), by `batch_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:  # as an image one pixel wide
            return _batch_norm(self, x[..., None])[..., 0]
        return _batch_norm(self, x)


class BatchNorm2d(nn.BatchNorm2d):
    """(n, c, h, w) -> (n, c, h, w) by `batch_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        return _batch_norm(self, x)


class ZeroPad2d(nn.ZeroPad2d):
    """(n, c, h, w) -> (n, c, top + h + bottom, left + w + right) by `pad`."""

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.padding
        return pad(x, (left, right, top, bottom))


class Dropout(nn.Dropout):
    """(...) -> (...) by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)


class ReLU(nn.ReLU):
    """(...) -> (...) by `relu`."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(x)


class LeakyReLU(nn.LeakyReLU):
    """(...) -> (...) by `leaky_relu`."""

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.negative_slope)


class Sigmoid(nn.Sigmoid):
    """(...) -> (...) by `sigmoid`."""

    def forward(self, x: Tensor) -> Tensor:
        return sigmoid(x)


class Tanh(nn.Tanh):
    """(...) -> (...) by `tanh`."""

    def forward(self, x: Tensor) -> Tensor:
        return tanh(x)


# Each layer's twin; what computes nothing is its own. `torchcnn.layers` adds its own layers.
BY_HAND: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Linear, nn.Conv2d: Conv2d, nn.MaxPool2d: MaxPool2d, nn.AvgPool2d: AvgPool2d,
    nn.BatchNorm1d: BatchNorm1d, nn.BatchNorm2d: BatchNorm2d, nn.Dropout: Dropout, nn.ReLU: ReLU,
    nn.LeakyReLU: LeakyReLU, nn.Sigmoid: Sigmoid, nn.Tanh: Tanh, nn.Flatten: nn.Flatten,
    nn.ZeroPad2d: ZeroPad2d, nn.Unflatten: nn.Unflatten, nn.Identity: nn.Identity,
    nn.Sequential: nn.Sequential, nn.ModuleList: nn.ModuleList, nn.ModuleDict: nn.ModuleDict,
}  # fmt: skip


def from_scratch(net: nn.Module) -> nn.Module:
    """The same network, every layer of it hand-written.

    It has the structure of `net`, its mode, and its very parameters and buffers: train one, and
    both have learnt. `state_dict` has the same keys; logits and gradients are the same up to
    rounding, and so is dropout on a CPU from the same seed. What a network computes between its
    layers, sums and concatenations, is its own code and stays.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    >>> twin = from_scratch(net)
    >>> type(twin[0]).__module__, twin[0].weight is net[0].weight
    ('torchcnn.scratch.network', True)

    Raises:
        ValueError: a layer that has no twin; the message names it.
    """
    return _twin(net, "", {})


def _twin(net: nn.Module, name: str, done: dict[int, nn.Module]) -> nn.Module:
    if id(net) in done:  # a layer that is used twice stays one layer
        return done[id(net)]
    kind = type(net)
    known = kind in BY_HAND or kind in BY_HAND.values()
    # A module of others is taken apart, but for torch's own, such as attention, which computes.
    if not known and (not any(net.children()) or kind.__module__.startswith("torch.nn")):
        there = ", ".join(sorted(layer.__name__ for layer in BY_HAND))
        raise ValueError(
            f"layer {name!r} is a {kind.__name__}, which is not written by hand; there are {there}"
        )
    if getattr(net, "padding_mode", "zeros") != "zeros":
        raise ValueError(f"layer {name!r} pads with {net.padding_mode!r}, by hand there is zeros")
    twin = done[id(net)] = copy.copy(net)  # shares the parameters' and buffers' dicts
    for key, value in vars(net).items():
        if "hooks" in key and isinstance(value, dict):
            vars(twin)[key] = value.copy()
    twin.__class__ = BY_HAND.get(kind, kind)
    twin._modules = {
        key: child and _twin(child, f"{name}.{key}".lstrip("."), done)
        for key, child in net._modules.items()
    }
    return twin
